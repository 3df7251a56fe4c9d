"""What each latent does on held-out text, from one reading of it, in memory that does not grow with the text.

Axes: N sequences, T positions, D `d_in`, F latents, B bins, E activations, P pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.activations.held_out import sequence_batches
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.latents.contexts import Contexts, RunningContexts, spread
from masked_sae.randomness import torch_generator
from masked_sae.saes import InferenceSAE

EDGES = 2.0 ** (torch.arange(-80, 105) / 4)  # of the bins of activations: a quarter of an octave each
_AT_ONCE = 2**25  # latents of a batch: 128 MiB
_DRAWN = 4  # so many times the activations that are shown are drawn, to be spread over all
_MOST_PAIRS = 3e8  # of latents that are active together, counted


@dataclass(frozen=True)
class Reading:
    """How the text is read.

    Attributes:
        indices_N: of the held-out sequences, in the order in which they are read.
        contexts: of each latent.
        width: tokens of a context.
        batch_size: sequences per forward.
    """

    indices_N: NDArray[np.int64]
    contexts: int
    width: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Activity:
    """Attributes:
    tokens: positions read, special ones left out.
    count_F: positions that each latent fired on.
    sum_F, max_F: of its activations.
    histogram_FB: of its activations, over the bins between `EDGES`; the first and last take what lies beyond.
    top: its strongest activations, one of a sequence.
    sample: of all its activations, evenly from strong to weak.
    quantile_FK: share of the activations that each of the sample is above, as the sample tells.
    position_P, latent_P: which latents fired together, on the first positions that were read.
    """

    tokens: int
    count_F: Tensor
    sum_F: Tensor
    max_F: Tensor
    histogram_FB: Tensor
    top: Contexts
    sample: Contexts
    quantile_FK: Tensor
    position_P: Tensor
    latent_P: Tensor


class RunningActivity:
    """Sums over batches of latents, from which the activity follows."""

    def __init__(self, d_sae: int, reading: Reading, device: torch.device) -> None:
        self._reading, self._d_sae = reading, d_sae
        self._tokens = self._rows = 0
        self._count_F = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._sum_F = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self._max_F = torch.zeros(d_sae, device=device)
        self._histogram = torch.zeros(d_sae * (len(EDGES) - 1), dtype=torch.int32, device=device)
        self._edges = EDGES.to(device)
        self._top = RunningContexts(d_sae, reading.contexts, reading.width, device)
        self._sample = RunningContexts(d_sae, _DRAWN * reading.contexts, reading.width, device)
        self._generator = torch_generator(reading.seed, "sample of activations")
        self._together = _Together()

    def add(self, f_NTF: Tensor, kept_NT: Tensor) -> None:
        """Takes in the latents of some sequences, 0 where a position is not kept."""
        place_E3 = f_NTF.nonzero()
        latent_E, f_E = place_E3[:, 2], f_NTF[f_NTF > 0]
        self._count_F += latent_E.bincount(minlength=self._d_sae)
        self._sum_F.index_add_(0, latent_E, f_E.double())
        self._max_F = self._max_F.maximum(f_NTF.flatten(0, 1).amax(0))
        bins = len(self._edges) - 1
        bin_E = (torch.bucketize(f_E, self._edges, right=True) - 1).clamp(0, bins - 1)
        self._histogram.index_add_(0, latent_E * bins + bin_E, torch.ones_like(bin_E, dtype=torch.int32))
        best_NF, t_NF = f_NTF.max(1)
        row_E, fired_E = best_NF.nonzero(as_tuple=True)
        top_E3 = torch.stack((row_E, t_NF[row_E, fired_E], fired_E), 1)
        self._top.offer(f_NTF, top_E3, best_NF[row_E, fired_E], self._rows)
        key_E = torch.rand(len(f_E), generator=self._generator).to(f_E.device)
        self._sample.offer(f_NTF, place_E3, key_E, self._rows)
        self._together.add((self._rows + place_E3[:, 0]) * f_NTF.shape[1] + place_E3[:, 1], latent_E)
        self._tokens += int(kept_NT.sum())
        self._rows += len(f_NTF)

    def result(self) -> Activity:
        sample, quantile_FK = spread(self._sample.found, self._reading.contexts)
        histogram_FB = self._histogram.view(self._d_sae, -1)
        position_P, latent_P = self._together.pairs()
        return Activity(
            self._tokens, self._count_F, self._sum_F, self._max_F, histogram_FB, self._top.found, sample, quantile_FK,
            position_P, latent_P,
        )  # fmt: skip


class _Together:
    """Which latents fired at the same position, for as many positions as their pairs can be counted of."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._left = _MOST_PAIRS

    def add(self, position_E: Tensor, latent_E: Tensor) -> None:
        """Takes activations in the order of their positions."""
        if self._left <= 0:
            return
        _, counts = position_E.unique_consecutive(return_counts=True)
        pairs = counts.double().square().cumsum(0)
        within = int(counts[pairs <= self._left].sum())
        self._parts.append((position_E[:within].cpu(), latent_E[:within].int().cpu()))
        self._left = self._left - float(pairs[-1]) if len(pairs) else self._left

    def pairs(self) -> tuple[Tensor, Tensor]:
        positions, latents = zip(*self._parts, strict=True)
        return torch.cat(positions), torch.cat(latents)


@torch.inference_mode()
def read_activity(sae: InferenceSAE, lm: LM, held_out: Sequences, reading: Reading) -> Activity:
    """Reads the text once, some sequences at a time.

    Raises:
        NonFiniteError: the LM's activations are not finite.
    """
    running = RunningActivity(sae.d_sae, reading, lm.gives_on)
    for _, tokens_NT, kept_NT in sequence_batches(held_out, reading.indices_N, reading.batch_size):
        x_NTD = lm.activations(tokens_NT)
        kept_NT = kept_NT.to(lm.gives_on)
        lm.refuse_non_finite(x_NTD[kept_NT], tokens_NT, kept_NT)
        at_once = max(1, _AT_ONCE // (sae.d_sae * tokens_NT.shape[1]))
        for x_some_NTD, kept_some_NT in zip(x_NTD.split(at_once), kept_NT.split(at_once), strict=True):
            f_NTF = sae.encode(x_some_NTD.flatten(0, 1)).view(*kept_some_NT.shape, sae.d_sae)
            running.add(f_NTF.masked_fill_(~kept_some_NT[..., None], 0), kept_some_NT)
    return running.result()
