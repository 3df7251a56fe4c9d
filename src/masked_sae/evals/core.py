"""How well an SAE reconstructs, how sparse it is, and what the LM loses when it reads the reconstruction.

Axes: N sequences, T positions, B activations, D `d_in`, F `d_sae`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.activations.held_out import sequence_batches, sequences_to_measure, shortage
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, Wording
from masked_sae.evals.predictions import BatchPredictions, Loss, PredictionMetrics
from masked_sae.saes import InferenceSAE

_BINS = 64  # of a histogram


@dataclass(frozen=True)
class ReconstructionMetrics:
    """On held-out clean text, of the LM's activations as they are.

    Attributes:
        l0: mean number of active latents.
        l1: mean sum of the latents.
        explained_variance: `1 - E||x - x_hat||^2 / (E||x||^2 - ||E x||^2)`.
        mse: `E||x - x_hat||^2 / d_in`.
        cosine_similarity: mean of `cos(x, x_hat)`.
        l2_ratio: mean of `||x_hat|| / ||x||`.
        relative_reconstruction_bias: `E||x_hat||^2 / E[x x_hat]`, under 1 where reconstructions shrink (Rajamanoharan
            et al. 2024, arXiv 2404.16014, equation 10).
        alive_latents, dead_latents: share of latents that fired on some, and on no, activation.
        frequency_over_1_percent: share of latents that fired on more than 1 % of the activations.
        dense_latents: on more than the given share of them (10 %).
        tokens: activations measured.
    """

    l0: float
    l1: float
    explained_variance: float
    mse: float
    cosine_similarity: float
    l2_ratio: float
    relative_reconstruction_bias: float
    alive_latents: float
    dead_latents: float
    frequency_over_1_percent: float
    dense_latents: float
    tokens: int


@dataclass(frozen=True)
class CoreMeasurement:
    """Metrics, and two figures of every latent.

    Attributes:
        frequency_F: share of the activations it fired on.
        max_decoder_cosine_F: largest cosine between its decoder row and any other's.
    """

    metrics: dict[str, float]
    frequency_F: Tensor
    max_decoder_cosine_F: Tensor

    def histograms(self) -> dict[str, Any]:
        """Counts of latents and edges of bins, as JSON has it; frequencies by their log10, dead latents left out."""
        return {
            "log10_latent_frequency": _histogram(self.frequency_F[self.frequency_F > 0].log10()),
            "max_decoder_cosine": _histogram(self.max_decoder_cosine_F),
        }


def _histogram(values_F: Tensor) -> dict[str, list[float]]:
    counts, edges = np.histogram(values_F.cpu().numpy(), bins=_BINS)
    return {"counts": counts.tolist(), "edges": edges.tolist()}


class ReconstructionSums:
    """Sums over batches of activations from which the metrics follow, in float64."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.count = 0
        self.sums = torch.zeros(7, dtype=torch.float64)
        self.sum_D = torch.zeros(d_in, dtype=torch.float64)
        self.fired_F = torch.zeros(d_sae, dtype=torch.float64)

    def add(self, x_BD: Tensor, f_BF: Tensor, x_hat_BD: Tensor) -> None:
        norm_B, norm_hat_B = x_BD.norm(dim=1), x_hat_BD.norm(dim=1)
        each = (
            (x_BD - x_hat_BD).square(),
            x_BD.square(),
            F.cosine_similarity(x_BD, x_hat_BD, dim=1),
            f_BF,
            norm_hat_B / norm_B.clamp_min(1e-4),
            x_hat_BD.square(),
            x_BD * x_hat_BD,
        )
        self.count += len(x_BD)
        self.sums += torch.stack([values.sum(dtype=torch.float64) for values in each]).cpu()
        self.sum_D += x_BD.sum(0, dtype=torch.float64).cpu()
        self.fired_F += (f_BF > 0).sum(0, dtype=torch.float64).cpu()

    def reconstruct(self, sae: InferenceSAE, x_BD: Tensor) -> Tensor:
        """The reconstructions of a batch, which is added."""
        f_BF = sae.encode(x_BD)
        x_hat_BD = sae.decode(f_BF)
        self.add(x_BD, f_BF, x_hat_BD)
        return x_hat_BD

    @property
    def frequency_F(self) -> Tensor:  # noqa: N802
        """Share of the activations that each latent fired on."""
        return self.fired_F / self.count

    def metrics(self, dense_frequency: float) -> ReconstructionMetrics:
        mean_D, frequency_F = self.sum_D / self.count, self.frequency_F
        error, squares, cosine, l1, l2_ratio, squares_hat, products = (self.sums / self.count).tolist()

        def share(chosen_F: Tensor) -> float:
            return chosen_F.double().mean().item()

        return ReconstructionMetrics(
            l0=frequency_F.sum().item(),
            l1=l1,
            explained_variance=1 - error / (squares - mean_D.square().sum().item()),
            mse=error / len(mean_D),
            cosine_similarity=cosine,
            l2_ratio=l2_ratio,
            relative_reconstruction_bias=squares_hat / products if products else 0.0,
            alive_latents=share(frequency_F > 0),
            dead_latents=share(frequency_F == 0),
            frequency_over_1_percent=share(frequency_F > 0.01),
            dense_latents=share(frequency_F > dense_frequency),
            tokens=self.count,
        )


def max_decoder_cosine(W_dec_FD: Tensor, chunk: int = 4096) -> Tensor:
    """The largest cosine between each latent's decoder row and any other's (F,)."""
    if len(W_dec_FD) < 2:
        return torch.zeros(len(W_dec_FD))
    rows_FD = F.normalize(W_dec_FD, dim=1)
    largest_F: list[Tensor] = []
    for first in range(0, len(rows_FD), chunk):
        cosine_CF = rows_FD[first : first + chunk] @ rows_FD.T
        own_C = torch.arange(len(cosine_CF), device=cosine_CF.device)
        cosine_CF[own_C, own_C + first] = -torch.inf
        largest_F.append(cosine_CF.amax(1))
    return torch.cat(largest_F)


@torch.inference_mode()
def evaluate_core(
    saes: Sequence[InferenceSAE],
    lm: LM,
    held_out: Sequences,
    *,
    tokens: int,
    batch_size: int,
    dense_frequency: float,
    known: Mapping[str, float] | None = None,
) -> list[CoreMeasurement]:
    """Core metrics of each SAE over about `tokens` held-out activations, from one reading of the text.

    Prediction metrics are left out where the LM has no trained output layer.

    Args:
        saes: each is asked for anew for every batch.
        held_out: sequences.
        batch_size: sequences per forward, or fewer where the LM takes fewer at one time.
        known: metrics of another SAE on the same LM and text, whose zero ablation need not be done again.
    """
    known_zero = None if known is None or "ce_zero" not in known else Loss(known["ce_zero"], known["kl_zero"])
    sums = [ReconstructionSums(sae.d_in, sae.d_sae) for sae in saes]
    losses, zeroed, ce_clean, count = [Loss() for _ in saes], Loss(), 0.0, 0
    at_once = min(batch_size, lm.micro_batch_size or batch_size)
    for first, tokens_NT, kept_NT in sequence_batches(held_out, sequences_to_measure(held_out, tokens), at_once):
        predictions = None if lm.objective is None else BatchPredictions(lm, tokens_NT, kept_NT, first)
        x_BD = lm.activations(tokens_NT)[kept_NT.to(lm.gives_on)] if predictions is None else predictions.x_BD
        for place, sae in enumerate(saes):
            x_hat_BD = sums[place].reconstruct(sae, x_BD)
            if predictions is not None:
                losses[place] += predictions.with_sae(sae, x_hat_BD)
        if predictions is not None:
            count, ce_clean = count + predictions.count, ce_clean + predictions.ce_clean
            zeroed = zeroed if known_zero is not None else zeroed + predictions.with_zeros()
    found: list[CoreMeasurement] = []
    for sae, its_sums, loss in zip(saes, sums, losses, strict=True):
        metrics: dict[str, float] = asdict(its_sums.metrics(dense_frequency))
        cosine_F = max_decoder_cosine(sae.W_dec_FD)
        metrics["max_decoder_cosine"] = cosine_F.mean().item()  # in the mean over latents
        if count:
            metrics |= asdict(PredictionMetrics.of(ce_clean / count, loss / count, known_zero or zeroed / count))
        found.append(CoreMeasurement(metrics, its_sums.frequency_F, cosine_F))
    return found


def measure(evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    """Core metrics on held-out text."""
    return together([evaluated], context)[0]


def together(several: Sequence[EvaluatedSAE], context: EvalContext) -> list[Measured]:
    """As `measure`. The zero ablation is the same for all SAEs: it is done once for a context."""
    settings = context.settings
    known: dict[str, float] = context.once(("core", "of another SAE"), dict)
    found = evaluate_core(
        [evaluated.sae for evaluated in several],
        context.lm,
        context.held_out,
        tokens=settings.tokens,
        batch_size=settings.batch_size,
        dense_frequency=settings.dense_frequency,
        known=known,
    )
    known.update(found[0].metrics)
    notes = shortage(int(known["tokens"]), settings.tokens)
    return [Measured(core.metrics, notes, {"histograms": core.histograms()}) for core in found]


FAMILY = Family(
    "core",
    ("tokens", "dense_frequency"),
    measure,
    (
        Wording("l0", "L0", "latents per token", "mean number of active latents on held-out clean text"),
        Wording("l1", "L1", "activation", "mean sum of the latents"),
        Wording(
            "explained_variance",
            "Explained variance",
            "share",
            "1 - E‖x-x̂‖² / E‖x-E x‖²",
            "higher",
            headline=True,
            in_paper="explained variance",
        ),
        Wording(
            "ce_recovered",
            "CE loss recovered",
            "share",
            "(ce_zero - ce_sae) / (ce_zero - ce_clean)",
            "higher",
            headline=True,
            in_paper="CE loss recovered",
        ),
        Wording("kl_recovered", "KL recovered", "share", "(kl_zero - kl_sae) / kl_zero", "higher"),
        Wording(r"(ce|kl)_(\w+)", "{0} ({1})", "nats per token", "cross entropy or divergence of the LM's predictions"),
        Wording("mse", "MSE", "per dimension", "E‖x-x̂‖² / d_in", "lower"),
        Wording("cosine_similarity", "Cosine similarity", "cosine", "mean of cos(x, x̂)", "higher"),
        Wording("l2_ratio", "L2 ratio", "ratio", "mean of ‖x̂‖ / ‖x‖: under 1 where reconstructions shrink"),
        Wording(
            "relative_reconstruction_bias",
            "Relative reconstruction bias",
            "ratio",
            "E‖x̂‖² / E[x·x̂]: under 1 where reconstructions shrink (arXiv 2404.16014)",
        ),
        Wording("alive_latents", "Alive latents", "share", "latents that fire on some held-out activation", "higher"),
        Wording("dead_latents", "Dead latents", "share", "latents that fire on no held-out activation", "lower"),
        Wording(
            "frequency_over_1_percent",
            "Latents over 1 %",
            "share",
            "latents that fire on over 1 % of held-out activations",
        ),
        Wording("dense_latents", "Dense latents", "share", "latents that fire on over eval.dense_frequency of tokens"),
        Wording(
            "max_decoder_cosine",
            "Max decoder cosine",
            "cosine",
            "largest cosine of a latent's decoder row with another's, in the mean over latents",
        ),
        Wording("tokens", "Tokens measured", "activations", "held-out activations measured"),
    ),
    place=0,
    together=together,
)
