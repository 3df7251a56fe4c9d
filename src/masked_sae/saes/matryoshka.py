"""Matryoshka BatchTopK SAE (Bussmann et al. 2025, arXiv 2503.17547): every prefix of the latents reconstructs.

Axes: B activations, D `d_in`, F `d_sae`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from masked_sae.saes.batch_topk import BatchTopKSAE


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK over all latents; the loss is the mean over the nested prefixes of their reconstruction losses.

    Args:
        groups: sizes of the groups of latents, which sum to `d_sae`; prefix `i` is the first `i + 1` groups.
        others: as for `BatchTopKSAE`.
    """

    def __init__(self, *args: Any, groups: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if sum(groups) != self.d_sae or min(groups) < 1:
            raise ValueError(f"groups={list(groups)}: expected sizes of at least 1 that sum to d_sae={self.d_sae}")
        self.groups = tuple(groups)

    def reconstruct(self, f_BF: Tensor, target_BD: Tensor) -> tuple[Tensor, Tensor]:
        x_hat_BD = self.b_dec_D.expand_as(target_BD)
        losses: list[Tensor] = []
        for f_BG, W_dec_GD in zip(f_BF.split(self.groups, dim=1), self.W_dec_FD.split(self.groups), strict=True):
            x_hat_BD = x_hat_BD + f_BG @ W_dec_GD
            losses.append(self.mean_squared_error(x_hat_BD, target_BD))
        return x_hat_BD, torch.stack(losses).mean()


def group_sizes(d_sae: int, fractions: Sequence[float]) -> list[int]:
    """Group sizes for `d_sae` latents: rounded fractions, at least 1 each, that sum to `d_sae`."""
    bounds = [round(d_sae * sum(fractions[: i + 1])) for i in range(len(fractions))]
    bounds[-1] = d_sae
    for i in range(len(bounds)):  # every group gets a latent of its own, and leaves one for each after it
        lowest = (bounds[i - 1] if i else 0) + 1
        bounds[i] = min(max(bounds[i], lowest), d_sae - (len(bounds) - 1 - i))
    return [after - before for before, after in zip([0, *bounds[:-1]], bounds, strict=True)]
