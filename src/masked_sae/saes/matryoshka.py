"""Matryoshka BatchTopK SAE (Bussmann et al. 2025, arXiv 2503.17547): every prefix of the latents reconstructs.

Balanced (Chanin et al. 2025, arXiv 2505.11756), the losses of inner prefixes count for less: with all of them equal
an inner latent takes up part of what the outer ones stand for (hedging), and with none specific latents absorb general
ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from masked_sae import checks
from masked_sae.errors import InputError
from masked_sae.saes.batch_topk import BatchTopKSAE, BatchTopKSettings
from masked_sae.settings import neutral


@dataclass(kw_only=True)
class Settings(BatchTopKSettings):
    """Attributes:
    group_fractions: of the latents, each group's share.
    group_weights: of the losses of the prefixes, from the innermost; null: they are equal.
    """

    group_fractions: list[float]
    group_weights: list[float] | None = neutral(None, label="group weights", cure=True)  # noqa: RUF009 - a field

    @property
    def prefixes(self) -> int:
        return len(self.group_fractions)

    def check(self) -> None:
        super().check()
        fractions = self.group_fractions
        if not fractions or not min(fractions) > 0 or not abs(sum(fractions) - 1) <= 1e-6:
            raise InputError("sae.group_fractions", fractions, "positive fractions of d_sae that sum to 1")
        if len(fractions) > self.d_sae:
            raise InputError("sae.group_fractions", fractions, f"at most sae.d_sae={self.d_sae} groups")
        weights = self.group_weights
        if weights is not None and not (
            len(weights) == len(fractions) and min(weights) >= 0 and 0 < sum(weights) <= checks.MOST_COEFFICIENT
        ):
            valid = f"null, or {len(fractions)} numbers of at least 0, not all of them 0: one for each group"
            raise InputError("sae.group_weights", weights, valid)

    def make(self, d_in: int, generator: torch.Generator) -> "MatryoshkaSAE":
        groups = group_sizes(self.d_sae, self.group_fractions)
        nested = {"groups": groups, "group_weights": self.group_weights}
        return MatryoshkaSAE(d_in, self.d_sae, self.k, **nested, **self.shared(generator))


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK over all latents; the loss is the mean over the nested prefixes of their reconstruction losses.

    Balanced, it is their weighted mean, `sum_g weight_g L_g / sum_g weight_g`, where 2505.11756 has the sum: one
    prefix weighs as much against another, and equal weights are the Matryoshka SAE as it was. The paper takes
    `weight_g = m^(G - 1 - g)` for the prefix `g` of `G`, counted from 0, and finds `m` of about 0.75 to serve best.

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
