"""The definition of absorption: where a concept's latents stay silent and others carry it.

After Chanin et al. 2024, "A is for absorption" (arXiv 2409.14507), with SAEBench's definitions and settings.

Axes: P positions, W positions of one concept that its probe gets right, D `d_in`, F `d_sae`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

FULL_COSINE = 0.025  # between the probe and the one latent of full absorption, at least
FRACTION_COSINE = 0.1  # between the probe and each of the absorbing latents of the fraction
CARRIED_SHARE = 0.4  # of the activation's projection that absorbing latents carry, at least
MAX_ABSORBING = 3  # latents that may share in the fraction
F1_JUMP = 0.03  # one more latent in the sparse probe counts as a split where F1 grows by more
SILENT = 1e-8  # below it a latent does not fire
_CHUNK = 512  # positions whose latents are dense at a time


class Absorbed(NamedTuple):
    """At each position.

    Attributes:
        full_W: whether one latent carries the concept in place of the split latents, bool.
        latent_W: the latent that carries most of the concept, int64.
        fraction_W: the absorption fraction, float32 in [0, 1].
        silent_W: whether no split latent fires, bool.
        along_W: the activation's projection on the probe, float32.
        carried_W: what that latent carries of it, float32.
    """

    full_W: Tensor
    latent_W: Tensor
    fraction_W: Tensor
    silent_W: Tensor
    along_W: Tensor
    carried_W: Tensor


def split_latents(ranked: Sequence[int], f1: Sequence[float], jump: float = F1_JUMP) -> tuple[int, ...]:
    """The shortest prefix of the ranked latents past which the F1 of 1, 2, … of them grows by no more than `jump`."""
    grows = (later > earlier + jump for earlier, later in pairwise(f1))
    length = next((k for k, more in enumerate(grows, start=1) if not more), len(f1))
    return tuple(ranked[:length])


@torch.inference_mode()
def absorption_at(x_WD: Tensor, f_WF: Tensor, W_dec_FD: Tensor, probe_D: Tensor, split: Sequence[int]) -> Absorbed:
    """Full absorption and absorption fraction of one concept at each position.

    With `u` the probe's unit vector, the activation's projection is `x · u` and a latent's `f · (W_dec u)`. SAEBench
    has `f · cos(W_dec, u)`: the same for decoder rows of unit norm, while for others only this one is what the latent
    adds to the projection. No bias enters.

    - Full absorption: no split latent fires; the latent with the largest projection has a cosine of at least 0.025 with
      the probe, and carries at least 0.4 of the activation's projection.
    - Absorption fraction: `a` is what the (up to 3) latents with the largest projections carry, of those that are no
      split latents and have a cosine of at least 0.1; `m` is what the split latents carry. Where `a` is less than 0.4
      of the activation's projection, or `m` is all of it, the fraction is 0. Else it is `a / (a + m)`, with `a` cut to
      what `m` leaves of the projection; 1 where `m <= 0`.

    Args:
        x_WD: activations, float32.
        f_WF: latents.
        W_dec_FD: decoder rows, of any norm.
        probe_D: the ground-truth probe's weights, of any norm.
        split: the concept's split latents.
    """
    u_D = F.normalize(probe_D, dim=0)
    direction_F = W_dec_FD @ u_D
    cosine_F = direction_F / W_dec_FD.norm(dim=1).clamp_min(1e-12)
    along_W = x_WD @ u_D
    carried_WF = f_WF * direction_F
    main = torch.tensor(split, dtype=torch.long, device=f_WF.device)

    top_W, latent_W = carried_WF.max(dim=1)
    silent_W = (f_WF[:, main] < SILENT).all(dim=1)
    aligned_W = cosine_F[latent_W] >= FULL_COSINE
    full_W = silent_W & aligned_W & (along_W > 0) & (top_W >= CARRIED_SHARE * along_W)

    main_W = carried_WF[:, main].sum(dim=1)
    absorbs_F = cosine_F >= FRACTION_COSINE
    absorbs_F[main] = False
    others_WF = carried_WF.clamp_(min=0).mul_(absorbs_F)
    absorbed_W = others_WF.topk(min(MAX_ABSORBING, others_WF.shape[1]), dim=1).values.sum(dim=1)
    applies_W = (along_W > 0) & (main_W < along_W) & (absorbed_W >= CARRIED_SHARE * along_W)
    a_W, m_W = absorbed_W.minimum(along_W - main_W), main_W.clamp_min(0)
    fraction_W = torch.where(applies_W, a_W / (a_W + m_W).clamp_min(1e-30), 0.0)
    return Absorbed(full_W, latent_W, fraction_W, silent_W, along_W, top_W)


def absorbed_on(
    x_PD: Tensor, f_PF: csr_array, W_dec_FD: Tensor, probe_D: Tensor, split: Sequence[int], rows_W: Tensor
) -> Absorbed:
    """`absorption_at` on some rows, with the latents dense for a few of them, and those that fire there, at a time."""
    found: list[Absorbed] = []
    for some_W in rows_W.split(_CHUNK):
        f_WF = f_PF[some_W.numpy()]
        columns = np.union1d(f_WF.indices, split)
        main = np.searchsorted(columns, split).tolist()
        dense_WF = torch.from_numpy(f_WF[:, columns].toarray())
        columns_F = torch.from_numpy(columns)
        here = absorption_at(x_PD[some_W], dense_WF, W_dec_FD[columns_F], probe_D, main)
        found.append(here._replace(latent_W=columns_F[here.latent_W]))
    return Absorbed(*(torch.cat(parts) for parts in zip(*found, strict=True)))
