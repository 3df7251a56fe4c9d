"""A penalty on decoder rows that point the same way (OrtSAE: Korznikov et al. 2025, arXiv 2509.22033).

Axes: D `d_in`, F `d_sae`, C latents of a chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from masked_sae.saes.sparse_step import Grouping

CHUNK = 2048  # latents: the cost of a step grows with it


def orthogonality_loss(W_dec_FD: Tensor, chunk: int, order_F: Tensor | None = None) -> Tensor:
    """`mean_i max_{j != i} cos(w_i, w_j)^2`, of each latent with the closest one of its chunk; scalar.

    The paper divides the latents at random into chunks for each step, so that the cost grows with `d_sae` and not with
    its square. Chosen here, where it leaves room: the mean is over all latents, whatever their chunk; a closest
    latent that is at an obtuse angle costs nothing, since it is no copy; the loss that this is added to is a mean
    over an activation's dimensions, and the penalty is in every step.

    Args:
        W_dec_FD: rows of unit norm, so that products are cosines.
        chunk: latents in a chunk; the last one may have fewer.
        order_F: the latents in an order of which each chunk takes its part; None: as they are.
    """
    return _Orthogonality.apply(W_dec_FD, closest(W_dec_FD, chunk, order_F))  # type: ignore[no-any-return]


@torch.no_grad()
def closest(W_dec_FD: Tensor, chunk: int, order_F: Tensor | None = None) -> Tensor:
    """Of each latent the one of its chunk whose row is closest to its own, (F,); itself if it is alone."""
    if order_F is None:
        order_F = torch.arange(len(W_dec_FD), device=W_dec_FD.device)
    closest_F = torch.empty_like(order_F)
    for latents_C in order_F.split(chunk):
        rows_CD = W_dec_FD[latents_C]
        cosine_CC = (rows_CD @ rows_CD.T).fill_diagonal_(-torch.inf)
        closest_F[latents_C] = latents_C[cosine_CC.argmax(1)]
    return closest_F


class _Orthogonality(torch.autograd.Function):
    """The gradient is written out, since autograd's of an indexed tensor adds up in an order that differs each time."""

    @staticmethod
    def forward(ctx: Any, W_dec_FD: Tensor, closest_F: Tensor) -> Tensor:
        cosine_F = (W_dec_FD * W_dec_FD[closest_F]).sum(1).clamp_min(0)
        cosine_F = torch.where(closest_F == torch.arange(len(closest_F), device=closest_F.device), 0.0, cosine_F)
        ctx.save_for_backward(W_dec_FD, closest_F, cosine_F)
        return cosine_F.square().mean()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_loss: Tensor
    ) -> tuple[Tensor, None]:
        W_dec_FD, closest_F, cosine_F = ctx.saved_tensors
        weight_F = 2 * grad_loss / len(cosine_F) * cosine_F
        latents_F = torch.arange(len(closest_F), device=closest_F.device)
        own_FD = weight_F[:, None] * W_dec_FD[closest_F]
        return own_FD + Grouping.by(closest_F, len(closest_F)).sums(latents_F, W_dec_FD, weight_F), None
