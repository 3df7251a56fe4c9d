"""The k largest numbers of each row, where they are positive, found fast: what `topk_family.keep_largest` says plainly.

Among equal numbers those that come first are kept; with static shapes that is left to `torch.topk`.

Axes: R rows, N numbers in a row, M blocks in a row, C candidates, A those kept.
"""

import torch
from torch import Tensor

BLOCK = 32  # numbers; a power of 2


def static_on(device: torch.device) -> bool:
    """Whether shapes are static there unless somebody chooses: a CPU has no host that would wait for it."""
    return device.type != "cpu"


@torch.no_grad()
def largest(pre_RN: Tensor, k: int, *, static: bool) -> tuple[Tensor, Tensor]:
    """The numbers that `keep_largest` keeps: their places in the flat `pre_RN`, ascending, (A,); and they, (A,).

    Args:
        static: `A` is always `k * R`, and what is not positive comes as 0.
    """
    pre_RN = pre_RN.contiguous()
    if static:
        columns_RK = pre_RN.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        values_RK = pre_RN.gather(1, columns_RK).clamp_min(0)
        first_R1 = torch.arange(0, pre_RN.numel(), pre_RN.shape[1], device=pre_RN.device)[:, None]
        return (columns_RK + first_R1).flatten(), values_RK.flatten()
    places_C, rows_C, values_C = _candidates(pre_RN, k)
    kept_C = _largest_of_ragged(rows_C, values_C, len(pre_RN), k)
    return places_C[kept_C], values_C[kept_C]


def _candidates(pre_RN: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Little more than the `k` largest of each row, in order, where positive: places, rows and values, each (C,).

    Each block's largest is a number of the row, so the k-th largest of these is at most the row's k-th largest number,
    and no number below it can be among the `k`. Everything is read once, to find the blocks' largest; after that only
    the blocks that hold a candidate matter.
    """
    rows, row_size = pre_RN.shape
    size = BLOCK
    while row_size % size or row_size // size < k:
        size //= 2
    blocks = pre_RN.view(-1, size)
    top_RM = blocks.amax(1).view(rows, -1)
    bound_R1 = top_RM.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    block_ids = ((top_RM >= bound_R1) & (top_RM > 0)).flatten().nonzero().squeeze(1)
    rows_of_blocks = block_ids // top_RM.shape[1]
    numbers = blocks[block_ids]
    block_C, within_C = ((numbers >= bound_R1[rows_of_blocks]) & (numbers > 0)).nonzero(as_tuple=True)
    places_C = block_ids[block_C] * size + within_C
    return places_C, rows_of_blocks[block_C], numbers[block_C, within_C]


def _largest_of_ragged(rows_C: Tensor, values_C: Tensor, rows: int, k: int) -> Tensor:
    """Which of the values are among the `k` largest of their row, the first of equal ones, (C,) bool."""
    starts_R = torch.searchsorted(rows_C, torch.arange(rows, device=rows_C.device))
    positions_C = torch.arange(len(rows_C), device=rows_C.device) - starts_R[rows_C]
    longest = max(k, int(positions_C.max()) + 1 if len(positions_C) else 0)
    padded_RL = values_C.new_full((rows, longest), -torch.inf)
    padded_RL[rows_C, positions_C] = values_C
    kth_R = padded_RL.topk(k, dim=1, sorted=False).values.amin(1)
    above_C, equal_C = values_C > kth_R[rows_C], values_C == kth_R[rows_C]
    places_left_R = k - torch.bincount(rows_C[above_C], minlength=rows)
    equals_so_far_C = equal_C.cumsum(0)
    equals_before_R = torch.cat([equals_so_far_C.new_zeros(1), equals_so_far_C])[starts_R]
    return above_C | (equal_C & (equals_so_far_C - equals_before_R[rows_C] <= places_left_R[rows_C]))
