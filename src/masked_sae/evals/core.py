"""How well an SAE reconstructs, how sparse it is, and what the LM loses when it reads the reconstruction.

Axes: N sequences, T positions, B activations, D `d_in`, F `d_sae`, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.lm import LM
from masked_sae.randomness import numpy_generator
from masked_sae.saes import SAE
from masked_sae.stream import Layout

_MLM_SHARE = 0.15  # of the tokens, which an encoder has to predict (Devlin et al. 2018, arXiv 1810.04805)


@dataclass(frozen=True)
class ReconstructionMetrics:
    """On held-out clean text, activations scaled as in training.

    Attributes:
        l0: mean number of active latents.
        explained_variance: `1 - E||x - x_hat||^2 / E||x - E x||^2`.
        mse: `E||x - x_hat||^2 / d_in`.
        cosine_similarity: mean of `cos(x, x_hat)`.
        dead_latents: share of latents that fired on no held-out activation.
        dense_latents: share of latents that fired on more than the given share of them.
        tokens: activations measured.
    """

    l0: float
    explained_variance: float
    mse: float
    cosine_similarity: float
    dead_latents: float
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


class ReconstructionSums:
    """Sums over batches of activations from which the metrics follow, in float64."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.count = 0
        self.error = self.squares = self.cosine = self.active = 0.0
        self.sum_D = torch.zeros(d_in, dtype=torch.float64)
        self.fired_F = torch.zeros(d_sae, dtype=torch.float64)

    def add(self, x_BD: Tensor, f_BF: Tensor, x_hat_BD: Tensor) -> None:
        self.count += len(x_BD)
        self.error += (x_BD - x_hat_BD).square().sum(dtype=torch.float64).item()
        self.squares += x_BD.square().sum(dtype=torch.float64).item()
        self.cosine += F.cosine_similarity(x_BD, x_hat_BD, dim=1).sum(dtype=torch.float64).item()
        self.sum_D += x_BD.sum(0, dtype=torch.float64).cpu()
        self.fired_F += (f_BF > 0).sum(0, dtype=torch.float64).cpu()

    def metrics(self, dense_frequency: float) -> ReconstructionMetrics:
        n, mean_D, frequency_F = self.count, self.sum_D / self.count, self.fired_F / self.count
        variance = self.squares / n - mean_D.square().sum().item()
        return ReconstructionMetrics(
            l0=frequency_F.sum().item(),
            explained_variance=1 - self.error / n / variance,
            mse=self.error / n / len(mean_D),
            cosine_similarity=self.cosine / n,
            dead_latents=(frequency_F == 0).double().mean().item(),
            dense_latents=(frequency_F > dense_frequency).double().mean().item(),
            tokens=n,
        )


@torch.inference_mode()
def evaluate_core(
    sae: SAE, lm: LM, layout: Layout, *, scale: float, tokens: int, batch_size: int, dense_frequency: float
) -> dict[str, float]:
    """Core metrics over about `tokens` held-out activations, keyed `core/…`.

    Prediction metrics are left out where the LM has no trained output layer.

    Args:
        layout: held-out sequences.
        scale: of the activations that the SAE was trained on.
        batch_size: sequences per forward.
    """
    n_sequences = min(math.ceil(tokens / layout.content_length), len(layout))
    # Spread over the whole split, so that a few tokens still see many documents.
    indices = np.linspace(0, len(layout) - 1, n_sequences).round().astype(np.int64)
    sums = ReconstructionSums(sae.d_in, sae.d_sae)
    predictions = PredictionSums()
    for first in range(0, n_sequences, batch_size):
        tokens_NT, kept_NT = layout.read(indices[first : first + batch_size])
        x_BD = lm.activations(tokens_NT)[kept_NT.to(lm.device)] * scale
        f_BF = sae.encode(x_BD)
        sums.add(x_BD, f_BF, sae.decode(f_BF))
        if lm.objective is not None:
            spliced = at_kept(lambda x_BD: sae(x_BD * scale) / scale, kept_NT.to(lm.device))
            zeroed = at_kept(torch.zeros_like, kept_NT.to(lm.device))
            predictions.add(lm, *predicted(lm, tokens_NT, kept_NT, first), spliced, zeroed)
    metrics: dict[str, float] = asdict(sums.metrics(dense_frequency))
    if predictions.count:
        metrics |= asdict(predictions.metrics())
    return {f"core/{key}": value for key, value in metrics.items()}


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
        zeroed: Callable[[Tensor], Tensor],
    ) -> None:
        counts_NT, wanted_B = counts_NT.to(lm.device), wanted_NT[counts_NT].to(lm.device)
        clean_BV = lm.logits(read_NT)[counts_NT].log_softmax(-1)
        self.count += len(wanted_B)
        self.ce_clean += F.nll_loss(clean_BV, wanted_B, reduction="sum").item()
        for name, change in (("sae", spliced), ("zero", zeroed)):
            changed_BV = lm.logits(read_NT, change)[counts_NT].log_softmax(-1)
            ce = F.nll_loss(changed_BV, wanted_B, reduction="sum").item()
            kl = F.kl_div(changed_BV, clean_BV, reduction="sum", log_target=True).item()
            setattr(self, f"ce_{name}", getattr(self, f"ce_{name}") + ce)
            setattr(self, f"kl_{name}", getattr(self, f"kl_{name}") + kl)

    def metrics(self) -> PredictionMetrics:
        n = self.count
        ce_clean, ce_sae, ce_zero = self.ce_clean / n, self.ce_sae / n, self.ce_zero / n
        return PredictionMetrics(
            ce_clean=ce_clean,
            ce_sae=ce_sae,
            ce_zero=ce_zero,
            ce_recovered=(ce_zero - ce_sae) / (ce_zero - ce_clean) if ce_zero != ce_clean else 0.0,
            kl_sae=self.kl_sae / n,
            kl_zero=self.kl_zero / n,
            kl_recovered=(self.kl_zero - self.kl_sae) / self.kl_zero if self.kl_zero else 0.0,
        )
