"""Which tokens, latents or input dimensions are hidden during training, and when.

Axes: N sequences, T positions, B activations, D `d_in`, F `d_sae`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.randomness import numpy_generator


@dataclass(frozen=True)
class TokenMask:
    """The paper's method (arXiv 2604.06495): tokens are replaced before the LM reads them.

    Attributes:
        rate: expected share of maskable tokens that are replaced; the schedule ends there.
        initial_rate: where a linear or cosine schedule starts.
        span: mean length of a masked span; 1 masks tokens independently.
        replacement: the token id written, or None for a random one out of `random_ids`.
        random_ids: the vocabulary that random replacements come from.
        seed: of the run.
    """

    rate: float
    initial_rate: float
    schedule: str
    span: float
    replacement: int | None
    random_ids: NDArray[np.int64]
    seed: int

    @property
    def is_off(self) -> bool:
        return self.rate == 0 and (self.schedule == "constant" or self.initial_rate == 0)

    def rate_at(self, progress: float) -> float:
        """The rate after a share `progress` of the training."""
        if self.schedule == "constant":
            return self.rate
        done = progress if self.schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return self.initial_rate + (self.rate - self.initial_rate) * done

    def apply(
        self, tokens_NT: Tensor, maskable_NT: Tensor, ordinals: Sequence[int], progress: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Masked tokens, and where they were masked.

        Args:
            tokens_NT: int64 token ids.
            maskable_NT: bool; special positions are False and stay untouched.
            ordinals: each sequence's place in the run's order; it alone, with the seed, draws the mask.
            progress: each sequence's share of the training done.
        """
        if self.is_off:
            return tokens_NT, torch.zeros_like(maskable_NT)
        length = tokens_NT.shape[1]
        masked = np.empty(tokens_NT.shape, dtype=bool)
        written = np.empty(tokens_NT.shape, dtype=np.int64)
        for row, (ordinal, done) in enumerate(zip(ordinals, progress, strict=True)):
            rng = numpy_generator(self.seed, "token mask", ordinal)
            masked[row] = draw_spans(rng, length, self.rate_at(done), self.span)
            if self.replacement is None:
                written[row] = self.random_ids[rng.integers(0, len(self.random_ids), size=length)]
            else:
                written[row] = self.replacement
        masked_NT = torch.from_numpy(masked) & maskable_NT
        return torch.where(masked_NT, torch.from_numpy(written), tokens_NT), masked_NT


def draw_spans(rng: np.random.Generator, length: int, rate: float, span: float) -> NDArray[np.bool_]:
    """A (T,) mask: every position is masked with probability `rate`, in spans of mean length `span`.

    At each position a new span starts with probability `s`; else a span under way goes on with probability
    `q = 1 - 1/span`. The chain starts in its stationary distribution, so the marginal is `rate` everywhere:
    `rate = s + (1 - s) q rate` gives `s = rate (1 - q) / (1 - rate q)`.
    """
    q = 1 - 1 / span
    start = rate * (1 - q) / (1 - rate * q) if rate < 1 else 1.0
    u_T = rng.random(length)
    if q == 0:
        return u_T < start
    go_on = start + (1 - start) * q
    mask_T = np.empty(length, dtype=bool)
    under_way = u_T[0] < rate
    mask_T[0] = under_way
    for t in range(1, length):
        under_way = u_T[t] < (go_on if under_way else start)
        mask_T[t] = under_way
    return mask_T


def hide_latents(pre_BF: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Sets pre-activations to -inf, never chosen, with probability `rate`: each latent for each activation."""
    if rate == 0:
        return pre_BF
    hidden_BF = torch.rand(pre_BF.shape, generator=generator, device=pre_BF.device) < rate
    return pre_BF.masked_fill(hidden_BF, -math.inf)


def hide_inputs(x_BD: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Input dimensions hidden with probability `rate` become 0; the others grow by 1/(1-rate), so the mean stays."""
    if rate == 0:
        return x_BD
    kept_BD = torch.rand(x_BD.shape, generator=generator, device=x_BD.device) >= rate
    return x_BD * kept_BD / (1 - rate if rate < 1 else 1)
