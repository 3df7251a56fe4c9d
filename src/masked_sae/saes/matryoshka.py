"""Matryoshka BatchTopK SAE (Bussmann et al. 2025, arXiv 2503.17547): every prefix of the latents reconstructs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from masked_sae.errors import InputError
from masked_sae.saes.batch_topk import BatchTopKSAE, BatchTopKSettings


@dataclass(kw_only=True)
class Settings(BatchTopKSettings):
    """Attributes:
    group_fractions: of the latents, each group's share.
    """

    group_fractions: list[float]

    def check(self) -> None:
        super().check()
        fractions = self.group_fractions
        if not fractions or not min(fractions) > 0 or not abs(sum(fractions) - 1) <= 1e-6:
            raise InputError("sae.group_fractions", fractions, "positive fractions of d_sae that sum to 1")
        if len(fractions) > self.d_sae:
            raise InputError("sae.group_fractions", fractions, f"at most sae.d_sae={self.d_sae} groups")

    def make(self, d_in: int, generator: torch.Generator) -> "MatryoshkaSAE":
        groups = group_sizes(self.d_sae, self.group_fractions)
        return MatryoshkaSAE(d_in, self.d_sae, self.k, groups=groups, **self.shared(generator))


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK over all latents; the loss is the mean over the nested prefixes of their reconstruction losses.

    Args:
        groups: sizes of the groups of latents, which sum to `d_sae`; prefix `i` is the first `i + 1` groups.
        others: as for `BatchTopKSAE`.
    """

    def __init__(self, *args: Any, groups: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, groups=groups, **kwargs)


def group_sizes(d_sae: int, fractions: Sequence[float]) -> list[int]:
    """Group sizes for `d_sae` latents: rounded fractions, at least 1 each, that sum to `d_sae`."""
    bounds = [round(d_sae * sum(fractions[: i + 1])) for i in range(len(fractions))]
    bounds[-1] = d_sae
    for i in range(len(bounds)):  # every group gets a latent of its own, and leaves one for each after it
        lowest = (bounds[i - 1] if i else 0) + 1
        bounds[i] = min(max(bounds[i], lowest), d_sae - (len(bounds) - 1 - i))
    return [after - before for before, after in zip([0, *bounds[:-1]], bounds, strict=True)]
