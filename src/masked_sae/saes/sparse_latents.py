"""Latents as sparse tensors: of millions of activations the active ones fit in memory, all of them would not.

Axes: B activations, D `d_in`, F `d_sae`, A active latents.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_AT_ONCE = 2**24  # latents that are dense at a time


@torch.no_grad()  # not inference mode: somebody may train on what comes out
def sparse_latents(encode: Callable[[Tensor], Tensor], x_BD: Tensor, d_sae: int, leading: torch.Size) -> Tensor:
    """The active latents of these activations: coalesced COO of the shape (leading…, F)."""
    rows = max(1, _AT_ONCE // d_sae)
    found = [_active(encode(some_BD), place * rows) for place, some_BD in enumerate(x_BD.split(rows))]
    row_A, latent_A, values_A = (torch.cat(parts) for parts in zip(*found, strict=True))
    places = torch.stack([*torch.unravel_index(row_A, leading), latent_A]) if leading else latent_A[None]
    return _coalesced(places, values_A, (*leading, d_sae))


def sparse_rows(f: Tensor) -> Tensor:
    """(B, F), of a sparse tensor of any number of dimensions and any layout."""
    if f.dim() == 2:
        return f
    f = f.coalesce()
    row_A = torch.zeros_like(f.indices()[0])
    for size, place_A in zip(f.shape[:-1], f.indices()[:-1], strict=True):
        row_A = row_A * size + place_A
    return _coalesced(torch.stack([row_A, f.indices()[-1]]), f.values(), (f.shape[:-1].numel(), f.shape[-1]))


def _active(f_BF: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, counted from `first`, latents and values."""
    row_A, latent_A = f_BF.nonzero(as_tuple=True)
    return row_A + first, latent_A, f_BF[row_A, latent_A]


def _coalesced(places: Tensor, values_A: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Places are in order, each once."""
    return torch.sparse_coo_tensor(places, values_A, shape, is_coalesced=True, check_invariants=False)
