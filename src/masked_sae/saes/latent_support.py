"""The support of a batch's latents (B, F): where a training step computes, everywhere or only where it matters.

Both have one interface, so that an architecture's formulas are written once. What lies between the two products with
the weights is left to autograd; it sees latents of either shape, (B, F) or (A,).

Axes: B activations, D `d_in`, F `d_sae`, A places of the whole batch.
"""

from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from masked_sae.saes.sparse_step import Grouping, products_at, starts_of, weighted_sums


class Support(Protocol):
    def of_latents(self, parameter_F: Tensor) -> Tensor:
        """For each place its latent's; to be combined with latents at these places."""
        ...

    def sums(self, latents: Tensor, W_dec_FD: Tensor) -> Tensor:
        """`f W_dec`, (B, D), of latents at these places, and 0 at all others."""
        ...

    def any_of_latent(self, true: Tensor) -> Tensor:
        """For each latent whether it is true at any of its places, (F,) bool."""
        ...


class FullSupport:
    """All of (B, F), by dense products."""

    def of_latents(self, parameter_F: Tensor) -> Tensor:
        return parameter_F

    def sums(self, latents: Tensor, W_dec_FD: Tensor) -> Tensor:
        return latents @ W_dec_FD

    def any_of_latent(self, true: Tensor) -> Tensor:
        return true.any(0)


class SparseSupport:
    """The places of (B, F) that a mask holds.

    Args:
        places_A: in the flat (B, F), ascending.
        batch, d_sae: its shape.
    """

    def __init__(self, places_A: Tensor, batch: int, d_sae: int) -> None:
        self.places_A, self.batch, self.d_sae = places_A, batch, d_sae
        self.rows_A, self.latents_A = places_A // d_sae, places_A % d_sae

    def pre_activations(
        self, pre_BF: Tensor, x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, b_dec_D: Tensor
    ) -> Tensor:
        """Those of `pre_BF`, (A,), with the gradient of `(x - b_dec) W_enc + b_enc` at these places."""
        pre_A = pre_BF.detach().view(-1)[self.places_A]
        return _Encoded.apply(x_BD, W_enc_FD, b_enc_F, b_dec_D, pre_A, self)  # type: ignore[no-any-return]

    def of_latents(self, parameter_F: Tensor) -> Tensor:
        return parameter_F.index_select(0, self.latents_A)

    def sums(self, latents: Tensor, W_dec_FD: Tensor) -> Tensor:
        return _Decoded.apply(latents, W_dec_FD, self)  # type: ignore[no-any-return]

    def any_of_latent(self, true: Tensor) -> Tensor:
        any_F = torch.zeros(self.d_sae, dtype=torch.bool, device=true.device)
        return any_F.index_fill_(0, self.latents_A[true], True)

    @cached_property
    def row_starts(self) -> Tensor:
        return starts_of(self.rows_A, self.batch)

    @cached_property
    def by_latent(self) -> Grouping:
        return Grouping.by(self.latents_A, self.d_sae)


@torch.no_grad()
def support_above(pre_BF: Tensor, bound_F: Tensor, most: float) -> SparseSupport | None:
    """The places where a pre-activation is above its latent's bound; None where that is more than a share of all."""
    above_BF = ~(pre_BF <= bound_F)  # NaN too, for the loss to show it
    if above_BF.count_nonzero() > most * above_BF.numel():
        return None
    return SparseSupport(above_BF.view(-1).nonzero().squeeze(1), *pre_BF.shape)


class _Encoded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        W_enc_FD: Tensor,
        b_enc_F: Tensor,
        b_dec_D: Tensor,
        pre_A: Tensor,
        support: SparseSupport,
    ) -> Tensor:
        ctx.save_for_backward(x_BD, W_enc_FD, b_dec_D)
        ctx.support = support
        return pre_A.view_as(pre_A)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_A: Tensor
    ) -> tuple[Tensor | None, ...]:
        x_BD, W_enc_FD, b_dec_D = ctx.saved_tensors
        support: SparseSupport = ctx.support
        grad_W_enc_FD = support.by_latent.sums(support.rows_A, x_BD - b_dec_D, grad_A)
        grad_b_enc_F = torch.zeros_like(W_enc_FD[:, 0]).index_add_(0, support.latents_A, grad_A)
        grad_x_BD = None
        if ctx.needs_input_grad[0]:
            grad_x_BD = weighted_sums(support.latents_A, W_enc_FD, support.row_starts, grad_A)
        return grad_x_BD, grad_W_enc_FD, grad_b_enc_F, -(grad_b_enc_F @ W_enc_FD), None, None


class _Decoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents_A: Tensor, W_dec_FD: Tensor, support: SparseSupport) -> Tensor:
        ctx.save_for_backward(latents_A, W_dec_FD)
        ctx.support = support
        return weighted_sums(support.latents_A, W_dec_FD, support.row_starts, latents_A)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_BD: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        latents_A, W_dec_FD = ctx.saved_tensors
        support: SparseSupport = ctx.support
        grad_A = products_at(support.row_starts, support.latents_A, grad_BD, W_dec_FD)
        grad_W_dec_FD = None
        if ctx.needs_input_grad[1]:
            grad_W_dec_FD = support.by_latent.sums(support.rows_A, grad_BD, latents_A)
        return grad_A, grad_W_dec_FD, None
