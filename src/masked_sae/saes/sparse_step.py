"""Training with sparse latents: everything but the encoder's product costs in proportion to the active latents.

Axes: B activations, D `d_in`, F `d_sae`, G groups of latents (1 but in Matryoshka), A active latents of the whole
batch, S sums of decoder rows.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from masked_sae.ranks import ALONE, Ranks

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


@dataclass(frozen=True)
class Active:
    """The active latents of a batch, ordered by the sums that they enter.

    Attributes:
        rows_A: the activation of each.
        latents_A: which latent.
        sums_A: the sum of decoder rows that it enters; ascending.
        values_A: how active. 0 stands for none.
        batch, d_sae, sums: how many there are of each.
    """

    rows_A: Tensor
    latents_A: Tensor
    sums_A: Tensor
    values_A: Tensor
    batch: int
    d_sae: int
    sums: int

    @staticmethod
    def of(places_A: Tensor, values_A: Tensor, batch: int, group_ends_G: Tensor, d_sae: int) -> "Active":
        """From places in the flat (B, F) latents, ascending: one sum for each activation and group."""
        rows_A, latents_A = places_A // d_sae, places_A % d_sae
        groups = len(group_ends_G)
        sums_A = rows_A * groups + torch.bucketize(latents_A, group_ends_G, right=True) if groups > 1 else rows_A
        return Active(rows_A, latents_A, sums_A, values_A, batch, d_sae, batch * groups)

    def __add__(self, other: "Active") -> "Active":
        """Both, each with its own sums: first this one's, then the other's."""
        return Active(
            torch.cat([self.rows_A, other.rows_A]),
            torch.cat([self.latents_A, other.latents_A]),
            torch.cat([self.sums_A, other.sums_A + self.sums]),
            torch.cat([self.values_A, other.values_A]),
            self.batch,
            self.d_sae,
            self.sums + other.sums,
        )

    def fired(self) -> Tensor:
        """Which latents are active anywhere in the batch, (F,) bool."""
        times_F = self.values_A.new_zeros(self.d_sae).index_add_(
            0, self.latents_A, (self.values_A > 0).type_as(self.values_A)
        )
        return times_F > 0


def weighted_sums(indices_A: Tensor, rows: Tensor, starts: Tensor, weights_A: Tensor) -> Tensor:
    """Sums of `weights * rows[indices]`; sum `i` takes the entries from `starts[i]` up to `starts[i + 1]`.

    A product of a sparse and a dense matrix. Every sum is added up by one thread, in order: the bits do not change
    from one time to the next. `embedding_bag` takes half the time of a CSR product.
    """
    return F.embedding_bag(indices_A, rows, starts, mode="sum", per_sample_weights=weights_A, include_last_offset=True)


def starts_of(ascending_A: Tensor, count: int) -> Tensor:
    """Where each of the numbers 0 to `count` begins in an ascending list, (count + 1,)."""
    return torch.searchsorted(ascending_A, torch.arange(count + 1, device=ascending_A.device))


@dataclass(frozen=True)
class Grouping:
    """Entries put side by side where they share a number, such as the latent that each belongs to.

    Attributes:
        order_A: of the entries.
        starts: where each number's begin, with the end, in that order.
    """

    order_A: Tensor
    starts: Tensor

    @staticmethod
    def by(numbers_A: Tensor, count: int) -> "Grouping":
        """Of numbers from 0 up to but not including `count`."""
        ascending_A, order_A = numbers_A.sort(stable=True)
        return Grouping(order_A, starts_of(ascending_A, count))

    def sums(self, indices_A: Tensor, rows: Tensor, weights_A: Tensor) -> Tensor:
        """For each number the sum over its entries of `weights * rows[indices]`."""
        return weighted_sums(indices_A[self.order_A], rows, self.starts, weights_A[self.order_A])


class _SparseLoss(torch.autograd.Function):
    """The loss of sparse latents. See `sparse_loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        W_enc_FD: Tensor,
        b_enc_F: Tensor,
        W_dec_FD: Tensor,
        b_dec_D: Tensor,
        target_BD: Tensor,
        active: Active,
        revived: Active | None,
        aux_coefficient: Tensor,
        weights_G: Tensor | None,
        shards: Ranks,
    ) -> tuple[Tensor, ...]:
        batch, d_in = x_BD.shape
        used = active if revived is None else active + revived
        starts = starts_of(used.sums_A, used.sums)
        sums_SD = shards.sum(weighted_sums(used.latents_A, W_dec_FD, starts, used.values_A))

        errors_BGD = sums_SD[: active.sums].view(batch, -1, d_in)  # in place from here on: the groups' reconstructions,
        errors_BGD.cumsum_(1).sub_((target_BD - b_dec_D)[:, None])  # the errors of the prefixes' reconstructions,
        residual_BD = -errors_BGD[:, -1]
        if weights_G is None:
            reconstruction_loss = torch.linalg.vector_norm(errors_BGD).square() / errors_BGD.numel()
        else:
            squared_G = torch.linalg.vector_norm(errors_BGD, dim=(0, 2)).square()
            reconstruction_loss = (weights_G * squared_G).sum() / errors_BGD.numel()
            errors_BGD.mul_(weights_G[:, None])
        for group in reversed(range(errors_BGD.shape[1] - 1)):  # and, but for a factor, their gradient: a group
            errors_BGD[:, group] += errors_BGD[:, group + 1]  # enters every prefix from its own on
        errors_BGD.mul_(2 / errors_BGD.numel())

        aux_error_BD = sums_SD[active.sums :]  # likewise
        auxiliary_loss = reconstruction_loss.new_zeros(())
        if revived is not None:
            auxiliary_loss = aux_error_BD.sub_(residual_BD).square().mean()
            aux_error_BD.mul_(2 * aux_coefficient / aux_error_BD.numel())

        ctx.used, ctx.starts, ctx.grad_SD, ctx.grad_b_dec_D = used, starts, sums_SD, errors_BGD[:, 0].sum(0)
        ctx.shards = shards
        ctx.save_for_backward(x_BD, W_enc_FD, W_dec_FD, b_dec_D)
        ctx.mark_non_differentiable(reconstruction_loss, auxiliary_loss, residual_BD)
        loss = reconstruction_loss + aux_coefficient * auxiliary_loss
        return loss, reconstruction_loss, auxiliary_loss, residual_BD

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_loss: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        x_BD, W_enc_FD, W_dec_FD, b_dec_D = ctx.saved_tensors
        used: Active = ctx.used
        grad_A = products_at(ctx.starts, used.latents_A, ctx.grad_SD, W_dec_FD) * (used.values_A > 0) * grad_loss
        of_latents = Grouping.by(used.latents_A, used.d_sae)
        grad_W_dec_FD = of_latents.sums(used.sums_A, ctx.grad_SD, used.values_A * grad_loss)
        grad_W_enc_FD = of_latents.sums(used.rows_A, x_BD - b_dec_D, grad_A)
        grad_b_enc_F = torch.zeros_like(W_enc_FD[:, 0]).index_add_(0, used.latents_A, grad_A)
        grad_b_dec_D = ctx.grad_b_dec_D * grad_loss - ctx.shards.sum(grad_b_enc_F @ W_enc_FD)
        grad_x_BD = None
        if ctx.needs_input_grad[0]:
            grad_x_BD = Grouping.by(used.rows_A, used.batch).sums(used.latents_A, W_enc_FD, grad_A)
        return grad_x_BD, grad_W_enc_FD, grad_b_enc_F, grad_W_dec_FD, grad_b_dec_D, *[None] * 6


def sparse_loss(
    x_BD: Tensor,
    W_enc_FD: Tensor,
    b_enc_F: Tensor,
    W_dec_FD: Tensor,
    b_dec_D: Tensor,
    *,
    target_BD: Tensor,
    active: Active,
    revived: Active | None,
    aux_coefficient: Tensor,
    weights_G: Tensor | None = None,
    shards: Ranks = ALONE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, reconstruction loss, auxiliary loss, and what the reconstruction leaves of the target, (B, D).

    Only the loss has a gradient. It takes the values of `active` and `revived` for
    `relu((x - b_dec) W_enc + b_enc)` at these places.

    Args:
        active: the latents that reconstruct, in `G` sums for each activation.
        revived: the dead latents that reconstruct what is left, in one sum for each activation.
        aux_coefficient: scalar, weight of the auxiliary loss.
        weights_G: of the prefixes' losses, of mean 1; None: they are equal.
        shards: that the latents are divided among; each gives those of its own, and all of them have `b_dec`.
    """
    return _SparseLoss.apply(  # type: ignore[no-any-return]
        x_BD, W_enc_FD, b_enc_F, W_dec_FD, b_dec_D, target_BD, active, revived, aux_coefficient, weights_G, shards
    )


def products_at(starts: Tensor, latents_A: Tensor, grad_SD: Tensor, W_dec_FD: Tensor) -> Tensor:
    """`grad W_dec^T` at the places of a CSR pattern, `starts` of rows and `latents`: their gradients, (A,)."""
    if torch.compiler.is_compiling():  # which takes no sparse tensors
        return _products_at(starts, latents_A, grad_SD, W_dec_FD)
    shape = (len(grad_SD), len(W_dec_FD))
    zeros_A = grad_SD.new_zeros(len(latents_A))
    pattern_SF = torch.sparse_csr_tensor(starts, latents_A, zeros_A, shape, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern_SF, grad_SD, W_dec_FD.T).values()


@torch.library.custom_op("masked_sae::products_at", mutates_args=())
def _products_at(starts: Tensor, latents_A: Tensor, grad_SD: Tensor, W_dec_FD: Tensor) -> Tensor:
    return products_at(starts, latents_A, grad_SD, W_dec_FD)


@_products_at.register_fake
def _(starts: Tensor, latents_A: Tensor, grad_SD: Tensor, W_dec_FD: Tensor) -> Tensor:
    return grad_SD.new_empty(latents_A.shape)
