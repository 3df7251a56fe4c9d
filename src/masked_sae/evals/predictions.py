"""What an LM predicts when it reads something else in place of the activation.

Axes: N sequences, T positions, B activations or predicted tokens, D `d_in`, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.activations.lm import LM
from masked_sae.activations.suffix import Edit, clean_pass
from masked_sae.randomness import numpy_generator

_MLM_SHARE = 0.15  # of the tokens, which an encoder has to predict (Devlin et al. 2018, arXiv 1810.04805)


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

    @classmethod
    def of(cls, ce_clean: float, sae: "Loss", zero: "Loss") -> "PredictionMetrics":
        """From means over the predicted tokens."""
        return cls(
            ce_clean=ce_clean,
            ce_sae=sae.ce,
            ce_zero=zero.ce,
            ce_recovered=(zero.ce - sae.ce) / (zero.ce - ce_clean) if zero.ce != ce_clean else 0.0,
            kl_sae=sae.kl,
            kl_zero=zero.kl,
            kl_recovered=(zero.kl - sae.kl) / zero.kl if zero.kl else 0.0,
        )


@dataclass(frozen=True)
class Loss:
    """Cross entropy of changed predictions, and their divergence from the clean ones: sums over tokens, or means."""

    ce: float = 0.0
    kl: float = 0.0

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(self.ce + other.ce, self.kl + other.kl)

    def __truediv__(self, count: int) -> "Loss":
        return Loss(self.ce / count, self.kl / count)


class BatchPredictions:
    """Of a few sequences: one forward as they are, and one from the hook point on for each change there.

    Attributes:
        x_BD: clean activations at the kept positions.
        count: predicted tokens.
        ce_clean: cross entropy without a change, a sum over them.
    """

    def __init__(self, lm: LM, tokens_NT: Tensor, kept_NT: Tensor, first: int) -> None:
        read_NT, counts_NT, wanted_NT = predicted(lm, tokens_NT, kept_NT, first)
        self._kept_NT, self._counts_NT = kept_NT.to(lm.gives_on), counts_NT.to(lm.device)
        self._wanted_B = wanted_NT[counts_NT].to(lm.device)
        self._passed, logits_NTV = clean_pass(lm, read_NT)
        self._clean_BV = logits_NTV[self._counts_NT].log_softmax(-1)
        self._reads_the_text = read_NT is tokens_NT
        x_NTD = self._passed.x_NTD if self._reads_the_text else lm.activations(tokens_NT)
        self.x_BD = x_NTD[self._kept_NT]
        self.count = len(self._wanted_B)
        self.ce_clean = F.nll_loss(self._clean_BV, self._wanted_B, reduction="sum").item()

    def with_sae(self, sae: Callable[[Tensor], Tensor], x_hat_BD: Tensor) -> Loss:
        """With an SAE's reconstructions at the kept positions.

        Args:
            x_hat_BD: those of `x_BD`, which are what a causal LM reads; an encoder reads a text with hidden tokens.
        """
        return self._after(put(x_hat_BD, self._kept_NT) if self._reads_the_text else at_kept(sae, self._kept_NT))

    def with_zeros(self) -> Loss:
        """With zeros at the kept positions."""
        return self._after(at_kept(torch.zeros_like, self._kept_NT))

    def _after(self, edit: Edit) -> Loss:
        changed_BV = self._passed.logits(edit)[self._counts_NT].log_softmax(-1)
        ce = F.nll_loss(changed_BV, self._wanted_B, reduction="sum").item()
        kl = F.kl_div(changed_BV, self._clean_BV, reduction="sum", log_target=True).item()
        return Loss(ce, kl)


def at_kept(change: Callable[[Tensor], Tensor], kept_NT: Tensor) -> Edit:
    """An edit that changes activations (B, D) at the kept positions and leaves the special ones alone."""

    def edit(x_NTD: Tensor) -> Tensor:
        return torch.where(kept_NT[:, :, None], change(x_NTD.flatten(0, 1)).view_as(x_NTD), x_NTD)

    return edit


def put(x_BD: Tensor, kept_NT: Tensor) -> Edit:
    """An edit that puts these at the kept positions, in their order, and leaves the special ones alone."""

    def edit(x_NTD: Tensor) -> Tensor:
        return x_NTD.masked_scatter(kept_NT[:, :, None], x_BD)

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
