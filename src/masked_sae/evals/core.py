"""How well an SAE reconstructs, how sparse it is, and what the LM loses when it reads the reconstruction.

Axes: N sequences, T positions, B activations, D `d_in`, F `d_sae`, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.activations.held_out import activation_batches, sequences_to_measure, shortage
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, Wording
from masked_sae.randomness import numpy_generator
from masked_sae.saes import InferenceSAE

_BINS = 64  # of a histogram
_MLM_SHARE = 0.15  # of the tokens, which an encoder has to predict (Devlin et al. 2018, arXiv 1810.04805)


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
class PredictionMetrics:
    """What replacing the activation does to the LM's predictions, in nats per predicted token.

    Attributes:
        ce_clean, ce_sae, ce_zero: cross entropy as it is, with the SAE's reconstruction, with zeros.
        ce_recovered: `(ce_zero - ce_sae) / (ce_zero - ce_clean)`.
        kl_sae, kl_zero: `KL(clean || changed)`.
        kl_recovered: `(kl_zero - kl_sae) / kl_zero`.
    """

    ce_clean: float
    ce_sae: float
    ce_zero: float
    ce_recovered: float
    kl_sae: float
    kl_zero: float
    kl_recovered: float


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
    sae: InferenceSAE,
    lm: LM,
    held_out: Sequences,
    *,
    tokens: int,
    batch_size: int,
    dense_frequency: float,
    known: Mapping[str, float] | None = None,
) -> CoreMeasurement:
    """Core metrics over about `tokens` held-out activations.

    Prediction metrics are left out where the LM has no trained output layer.

    Args:
        held_out: sequences.
        batch_size: sequences per forward.
        known: metrics of another SAE on the same LM and text, whose zero ablation need not be done again.
    """
    zero = None if known is None or "ce_zero" not in known else (known["ce_zero"], known["kl_zero"])
    indices = sequences_to_measure(held_out, tokens)
    sums = ReconstructionSums(sae.d_in, sae.d_sae)
    predictions = PredictionSums()
    for first, tokens_NT, kept_NT, x_BD in activation_batches(lm, held_out, indices, batch_size):
        f_BF = sae.encode(x_BD)
        sums.add(x_BD, f_BF, sae.decode(f_BF))
        if lm.objective is not None:
            spliced = at_kept(sae, kept_NT.to(lm.device))
            zeroed = None if zero is not None else at_kept(torch.zeros_like, kept_NT.to(lm.device))
            predictions.add(lm, *predicted(lm, tokens_NT, kept_NT, first), spliced, zeroed)
    metrics: dict[str, float] = asdict(sums.metrics(dense_frequency))
    cosine_F = max_decoder_cosine(sae.W_dec_FD)
    metrics["max_decoder_cosine"] = cosine_F.mean().item()  # in the mean over latents
    if predictions.count:
        metrics |= asdict(predictions.metrics(zero))
    return CoreMeasurement(metrics, sums.frequency_F, cosine_F)


def at_kept(change: Callable[[Tensor], Tensor], kept_NT: Tensor) -> Callable[[Tensor], Tensor]:
    """An edit that changes activations (B, D) at the kept positions and leaves the special ones alone."""

    def edit(x_NTD: Tensor) -> Tensor:
        return torch.where(kept_NT[:, :, None], change(x_NTD.flatten(0, 1)).view_as(x_NTD), x_NTD)

    return edit


def predicted(lm: LM, tokens_NT: Tensor, kept_NT: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the LM reads, the positions whose logits count, and the tokens they should predict, each (N, T).

    A causal LM predicts each next token. An encoder reads a text with 15 % of its tokens (a fixed choice) replaced by
    its mask token, and predicts those.
    """
    if lm.objective == "masked":
        length = tokens_NT.shape[1]
        draws = [numpy_generator(0, "masked prediction", first + row).random(length) for row in range(len(tokens_NT))]
        hidden_NT = kept_NT & torch.from_numpy(np.stack(draws) < _MLM_SHARE)
        return torch.where(hidden_NT, lm.tokenizer.mask_token_id, tokens_NT), hidden_NT, tokens_NT
    counts_NT = torch.zeros_like(kept_NT)
    counts_NT[:, :-1] = kept_NT[:, 1:]
    return tokens_NT, counts_NT, tokens_NT.roll(-1, dims=1)


class PredictionSums:
    """Sums of cross entropies and divergences over predicted tokens."""

    def __init__(self) -> None:
        self.count = 0
        self.ce_clean = self.ce_sae = self.ce_zero = self.kl_sae = self.kl_zero = 0.0

    def add(
        self,
        lm: LM,
        read_NT: Tensor,
        counts_NT: Tensor,
        wanted_NT: Tensor,
        spliced: Callable[[Tensor], Tensor],
        zeroed: Callable[[Tensor], Tensor] | None,
    ) -> None:
        counts_NT, wanted_B = counts_NT.to(lm.device), wanted_NT[counts_NT].to(lm.device)
        clean_BV = lm.logits(read_NT)[counts_NT].log_softmax(-1)
        self.count += len(wanted_B)
        self.ce_clean += F.nll_loss(clean_BV, wanted_B, reduction="sum").item()
        for name, change in (("sae", spliced), ("zero", zeroed)):
            if change is None:
                continue
            changed_BV = lm.logits(read_NT, change)[counts_NT].log_softmax(-1)
            ce = F.nll_loss(changed_BV, wanted_B, reduction="sum").item()
            kl = F.kl_div(changed_BV, clean_BV, reduction="sum", log_target=True).item()
            setattr(self, f"ce_{name}", getattr(self, f"ce_{name}") + ce)
            setattr(self, f"kl_{name}", getattr(self, f"kl_{name}") + kl)

    def metrics(self, zero: tuple[float, float] | None = None) -> PredictionMetrics:
        """With cross entropy and divergence of the zero ablation, where they were not summed here."""
        n = self.count
        ce_clean, ce_sae, kl_sae = self.ce_clean / n, self.ce_sae / n, self.kl_sae / n
        ce_zero, kl_zero = zero or (self.ce_zero / n, self.kl_zero / n)
        return PredictionMetrics(
            ce_clean=ce_clean,
            ce_sae=ce_sae,
            ce_zero=ce_zero,
            ce_recovered=(ce_zero - ce_sae) / (ce_zero - ce_clean) if ce_zero != ce_clean else 0.0,
            kl_sae=kl_sae,
            kl_zero=kl_zero,
            kl_recovered=(kl_zero - kl_sae) / kl_zero if kl_zero else 0.0,
        )


def measure(evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    """Core metrics on held-out text. The zero ablation is the same for all SAEs: it is done for the first."""
    settings = context.settings
    known: dict[str, float] = context.once(("core", "of another SAE"), dict)
    core = evaluate_core(
        evaluated.sae,
        context.lm,
        context.held_out,
        tokens=settings.tokens,
        batch_size=settings.batch_size,
        dense_frequency=settings.dense_frequency,
        known=known,
    )
    known.update(core.metrics)
    notes = shortage(int(core.metrics["tokens"]), settings.tokens)
    return Measured(core.metrics, notes, {"histograms": core.histograms()})


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
)
