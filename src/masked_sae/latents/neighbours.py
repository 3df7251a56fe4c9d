"""Which latents are near one another: in what they write, and in when they fire.

Axes: F latents, C latents at once, M neighbours, P activations, D `d_in`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from masked_sae.latents.contexts import largest_of_each

_AT_ONCE = 2**25  # cosines
_LEAST_TOGETHER = 3  # positions; two rare latents that meet once would be the nearest of all


@dataclass(frozen=True)
class Neighbours:
    """Nearest first; -1, with a nearness of 0, where there is none."""

    latent_FM: Tensor
    nearness_FM: Tensor


def nearest_by_decoder(W_dec_FD: Tensor, wanted: int) -> Neighbours:
    """By the cosine of decoder rows."""
    rows_FD = F.normalize(W_dec_FD, dim=1)
    latents, wanted_here = len(rows_FD), min(wanted, len(rows_FD) - 1)
    latent_FM = torch.full((latents, wanted), -1, dtype=torch.int64)
    nearness_FM = torch.zeros(latents, wanted)
    at_once = max(1, _AT_ONCE // latents)
    for first in range(0, latents, at_once):
        cosine_CF = rows_FD[first : first + at_once] @ rows_FD.T
        own_C = torch.arange(len(cosine_CF), device=cosine_CF.device)
        cosine_CF[own_C, own_C + first] = -torch.inf
        found = cosine_CF.topk(wanted_here, dim=1)
        latent_FM[first : first + at_once, :wanted_here] = found.indices.cpu()
        nearness_FM[first : first + at_once, :wanted_here] = found.values.cpu()
    return Neighbours(latent_FM, nearness_FM)


def nearest_by_firing(position_P: Tensor, latent_P: Tensor, latents: int, wanted: int) -> Neighbours:
    """By Jaccard's index of the positions that two latents fire on: those of both, over those of either.

    Args:
        position_P, latent_P: of each activation, no pair twice.
    """
    latent_FM = torch.full((latents, wanted), -1, dtype=torch.int64)
    nearness_FM = torch.zeros(latents, wanted)
    _, column_P = np.unique(position_P.numpy(), return_inverse=True)
    ones_P = np.ones(len(column_P), dtype=np.int32)
    shape = (latents, int(column_P.max(initial=-1)) + 1)
    fired = sparse.csr_array((ones_P, (latent_P.numpy(), column_P)), shape=shape)
    fired_T = fired.T.tocsr()
    count_F = torch.from_numpy(np.asarray(fired.sum(1)))
    at_once = max(1, _AT_ONCE // latents)
    for first in range(0, latents, at_once):
        together = (fired[first : first + at_once] @ fired_T).tocoo()
        one, other = (torch.from_numpy(side.astype(np.int64)) for side in together.coords)
        both = torch.from_numpy(together.data)
        wanted_pairs = (both >= _LEAST_TOGETHER) & (one + first != other)
        one, other, both = one[wanted_pairs] + first, other[wanted_pairs], both[wanted_pairs]
        jaccard = both / (count_F[one] + count_F[other] - both)
        best, rank = largest_of_each(one, jaccard, wanted)
        latent_FM[one[best], rank] = other[best]
        nearness_FM[one[best], rank] = jaccard[best].float()
    return Neighbours(latent_FM, nearness_FM)
