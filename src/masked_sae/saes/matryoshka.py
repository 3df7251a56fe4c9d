"""Matryoshka BatchTopK SAE (Bussmann et al. 2025, arXiv 2503.17547): every prefix of the latents reconstructs."""

from collections.abc import Sequence
from typing import Any

from masked_sae.saes.batch_topk import BatchTopKSAE


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
