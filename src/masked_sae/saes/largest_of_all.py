"""The k largest numbers of each row where several ranks have parts of it: of a batch's rows, or of its latents.

Among equal numbers those of the first rank are kept, and of a rank those that come first (with static shapes that is
left to `torch.topk`, as in `fast_topk.py`). Where ranks follow one another within a row, that is as from one process.

Axes: R rows, N numbers of a row on this rank, K numbers of a row that are kept at most, C candidates of a row, A those
kept.
"""

import torch
from torch import Tensor

from masked_sae.ranks import Ranks
from masked_sae.saes.fast_topk import largest
from masked_sae.saes.sparse_step import starts_of


@torch.no_grad()
def largest_of_all(pre_RN: Tensor, k: int, ranks: Ranks, *, static: bool) -> tuple[Tensor, Tensor]:
    """As `fast_topk.largest`, of what this rank has: those that are among the `k` largest of the row on all ranks.

    Args:
        ranks: that have a part of each row; alone, it is `largest` itself.
    """
    places_A, values_A = largest(pre_RN, min(k, pre_RN.shape[1]), static=static)
    if ranks.is_alone:
        return places_A, values_A
    rows_A = places_A // pre_RN.shape[1]
    slots_A = torch.arange(len(rows_A), device=rows_A.device) - starts_of(rows_A, len(pre_RN))[rows_A]
    padded_RK = values_A.new_zeros(len(pre_RN), k)
    padded_RK[rows_A, slots_A] = values_A
    kept_A = of_all_ranks(padded_RK, ranks)[rows_A, slots_A]
    if static:
        return places_A, torch.where(kept_A, values_A, 0.0)
    return places_A[kept_A], values_A[kept_A]


def of_all_ranks(values_RK: Tensor, ranks: Ranks) -> Tensor:
    """Which of these values are among the `K` largest of their row on all ranks, where they are positive, (R, K) bool.

    Args:
        values_RK: the `K` largest of this rank, 0 where there are no more: no other of its numbers can be among them.
    """
    rows, k = values_RK.shape
    all_RC = ranks.gather(values_RK).view(ranks.count, rows, k).transpose(0, 1).reshape(rows, -1)
    kth_R1 = all_RC.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    above_RC, equal_RC = all_RC > kth_R1, all_RC == kth_R1
    places_left_R1 = k - above_RC.sum(1, keepdim=True)
    kept_RC = (above_RC | (equal_RC & (equal_RC.cumsum(1) <= places_left_R1))) & (all_RC > 0)
    return kept_RC[:, ranks.rank * k :][:, :k]
