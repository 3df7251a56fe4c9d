"""Processes that train together: each has its share of every batch's rows, or of an SAE's latents; what is said of a
batch is said of all of it.

Axes: R ranks, N rows of one rank.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Older versions of torch know it by its former name alone, of which newer ones warn.
_all_gather: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor")  # noqa: B009


@dataclass(frozen=True)
class Ranks:
    """What one of them knows of all. Everybody calls the same methods in the same order, with tensors of equal shape
    and on devices of one kind; alone, each gives back what it was given.

    Attributes:
        rank: which one this is, from 0.
        count: how many there are.
        group: torch's, of all of them; None: the default one. Who calls from a thread of their own has one of their
            own.
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.count == 1

    def share(self, size: int) -> slice:
        """Of so many things this one's, which follow those of the ranks before."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def sum(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor if self.is_alone else self.sum(tensor) / self.count

    def least(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, dist.ReduceOp.MIN)

    def any(self, true: Tensor) -> Tensor:
        """Where it is true on any rank, bool."""
        return true if self.is_alone else self._reduced(true.to(torch.uint8), dist.ReduceOp.MAX).bool()

    def gather(self, rows: Tensor) -> Tensor:
        """Those of all ranks (N, ...), one after another: (R * N, ...)."""
        if self.is_alone:
            return rows
        found = rows.new_empty(len(rows) * self.count, *rows.shape[1:])
        _all_gather(found, rows.contiguous(), group=self.group)
        return found

    def from_first(self, tensor: Tensor) -> Tensor:
        """The first rank's, written over this one's."""
        if not self.is_alone:
            dist.broadcast(tensor, src=0, group=self.group)
        return tensor

    def to_first(self, part: Tensor) -> Tensor | None:
        """The parts of all (N, ...), one after another, on the first rank's CPU: (R * N, ...); None on all others."""
        own = part.detach().cpu().contiguous()
        if self.is_alone:
            return own
        if not self.is_first:
            dist.gather(own, dst=0, group=self.group)
            return None
        found = own.new_empty(len(own) * self.count, *own.shape[1:])
        dist.gather(own, list(found.chunk(self.count)), dst=0, group=self.group)
        return found

    def part_of_first(self, whole: Tensor | None, like: Tensor) -> Tensor:
        """This rank's part of what the first has, on the CPU: the reverse of `to_first`.

        Args:
            whole: the first rank's (R * N, ...); None on all others.
            like: of a part's shape and dtype.
        """
        found = torch.empty_like(like, device="cpu", memory_format=torch.contiguous_format)
        parts = None if whole is None else list(whole.detach().cpu().contiguous().chunk(self.count))
        dist.scatter(found, parts, src=0, group=self.group)
        return found

    def exchange(self, rows: Tensor, wanted: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
        """Rows of a table that the ranks have parts of, to those who want them.

        Args:
            rows: this rank's part (N, ...).
            wanted: for each rank, the rows of the whole table that it wants, in its order; on the CPU.
            starts: where each rank's part begins in the whole, and the end: R + 1 numbers.

        Returns:
            Those that this rank wants, in its order.
        """
        sent = [_between(wanted_r, starts[self.rank], starts[self.rank + 1]) for wanted_r in wanted]
        received = [_between(wanted[self.rank], starts[r], starts[r + 1]) for r in range(self.count)]
        given = [wanted_r[mine] - starts[self.rank] for wanted_r, mine in zip(wanted, sent, strict=True)]
        found = rows.new_empty(sum(map(len, received)), *rows.shape[1:])
        outgoing = rows[torch.cat(given).to(rows.device)]
        sizes = [len(part) for part in received], [len(part) for part in given]
        dist.all_to_all_single(found, outgoing, *sizes, group=self.group)
        places = torch.cat(received).to(rows.device)
        return torch.empty_like(found).index_copy_(0, places, found)

    def tell(self, plain: Any) -> list[Any]:
        """What each rank says, in order: values of JSON, for nothing that comes from elsewhere is unpickled."""
        if self.is_alone:
            return [plain]
        said = torch.tensor(list(json.dumps(plain).encode()), dtype=torch.uint8)
        sizes_R = self.gather(torch.tensor([len(said)]))
        padded = torch.zeros(int(sizes_R.max()), dtype=torch.uint8)
        padded[: len(said)] = said
        all_RN = self.gather(padded[None])
        return [json.loads(bytes(one[:size].tolist())) for one, size in zip(all_RN, sizes_R.tolist(), strict=True)]

    def _reduced(self, tensor: Tensor, how: Any) -> Tensor:
        if self.is_alone:
            return tensor
        found = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(found, op=how, group=self.group)
        return found


ALONE = Ranks()


def _between(rows: Tensor, start: int, stop: int) -> Tensor:
    """Places in a list of rows that lie in a part of the table, ascending."""
    return ((rows >= start) & (rows < stop)).nonzero().squeeze(1)
