"""Latents of two SAEs paired by what they write: the cosine of their decoder rows.

Axes: D `d_in`, F latents of one SAE, G of the other, M latents asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ALIKE = 0.7  # a cosine from which on the other SAE counts as having the latent, too
_AT_ONCE = 2**25  # cosines


@dataclass(frozen=True)
class Match:
    """The closest latent of the other SAE.

    Attributes:
        mutual: whether of its own SAE this latent's match is closest to it, too.
    """

    latent: int
    cosine: float
    mutual: bool

    @property
    def alike(self) -> bool:
        return self.cosine >= ALIKE


@torch.inference_mode()
def best_matches(latents: Sequence[int], W_dec_FD: Tensor, other_GD: Tensor) -> dict[int, Match]:
    """Of each of these latents. One without a decoder row has none.

    Args:
        latents: of the SAE with the rows `W_dec_FD`, which may have any norm, as those of the other may.
    """
    if not latents:
        return {}
    rows_FD, others_GD = F.normalize(W_dec_FD.float(), dim=1), F.normalize(other_GD.float(), dim=1)
    cosine_M, best_M = _closest(rows_FD[list(latents)], others_GD)
    _, back_M = _closest(others_GD[best_M], rows_FD)
    found = zip(latents, cosine_M.tolist(), best_M.tolist(), back_M.tolist(), strict=True)
    has_row = rows_FD[list(latents)].any(1).tolist()
    return {
        latent: Match(best, cosine, mutual=back == latent)
        for (latent, cosine, best, back), has in zip(found, has_row, strict=True)
        if has
    }


def _closest(rows_MD: Tensor, others_GD: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of each, and with which; both (M,)."""
    at_once = max(1, _AT_ONCE // len(others_GD))
    found = [(some_CD @ others_GD.T).max(1) for some_CD in rows_MD.split(at_once)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])
