"""Sums over the ranks that share an SAE's latents, as autograd has to see them.

Every rank computes the same loss from reconstructions that all contribute to. So the gradient of a sum over ranks is
each one's own, and what all of them read of a parameter that each has (`b_dec`) adds up. These are the two conjugate
operators of tensor parallelism (Shoeybi et al. 2019, arXiv 1909.08053, section 3).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from masked_sae.ranks import Ranks


def summed(part: Tensor, shards: Ranks) -> Tensor:
    """The sum of all ranks' parts, of a shape that is the same on each; each gets the sum's gradient."""
    return part if shards.is_alone else _Summed.apply(part, shards)  # type: ignore[no-any-return]


def read_by_all(parameter: Tensor, shards: Ranks) -> Tensor:
    """The parameter, which is the same on each rank; it gets the sum of the gradients of all."""
    return parameter if shards.is_alone else _ReadByAll.apply(parameter, shards)  # type: ignore[no-any-return]


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, shards: Ranks) -> Tensor:
        return shards.sum(part)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None


class _ReadByAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, shards: Ranks) -> Tensor:
        ctx.shards = shards
        return parameter.view_as(parameter)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.shards.sum(grad), None
