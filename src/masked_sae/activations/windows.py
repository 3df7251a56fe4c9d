"""Windows of the stream: from text to the activations of so many batches, in their order.

Axes: N sequences, T positions, D `d_in`, W activations of a window, P those of one rank's sequences.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from masked_sae.activations.ahead import Abandoned, Unwanted
from masked_sae.activations.lm import LM
from masked_sae.activations.plan import Plan
from masked_sae.activations.sequences import ShuffledSequences
from masked_sae.activations.window_cache import StoredWindow, WindowCache
from masked_sae.activations.window_text import WindowText, read_window
from masked_sae.errors import NonFiniteError
from masked_sae.masks.run_masks import Masks
from masked_sae.randomness import torch_generator
from masked_sae.ranks import ALONE, Ranks


class Point(NamedTuple):
    """Where activations are read, and what they are multiplied by."""

    hook_name: str
    scale: float


@dataclass
class Held:
    """Activations held at once at a point; the memory serves one window after the other.

    Attributes:
        error: what keeps them from being trained on.
    """

    x_WD: Tensor
    target_WD: Tensor | None
    error: NonFiniteError | None = None

    @classmethod
    def empty(cls, size: int, d_in: int, device: torch.device, with_target: bool) -> "Held":
        target_WD = torch.empty(size, d_in, device=device) if with_target else None
        return cls(torch.empty(size, d_in, device=device), target_WD)

    def tensors(self) -> list[Tensor]:
        """Activations, and clean targets where there are."""
        return [self.x_WD] if self.target_WD is None else [self.x_WD, self.target_WD]


@dataclass(frozen=True)
class Window:
    """One, ready to be read.

    Attributes:
        at: the activations at each point.
        order_W: rows of these, batch after batch.
        masked_share: of its maskable tokens, that were replaced.
    """

    index: int
    at: Mapping[Point, Held]
    order_W: Tensor
    masked_share: float


def _never() -> bool:
    return False


class Windows:
    """Windows by their index, each a pure function of it.

    Args:
        masks: those that act on the text.
        points: none twice.
        lm_batch_size: sequences per forward.
        seed: of the shuffle.
        dtype: that activations are rounded to; None: none coarser than the LM's.
        caches: of windows on disk, by hook point; those without one are computed.
        ranks: that share a window's forwards, and every batch, of which each is given its rows.
    """

    def __init__(
        self,
        lm: LM,
        sequences: ShuffledSequences,
        plan: Plan,
        masks: Masks,
        points: Sequence[Point],
        *,
        lm_batch_size: int,
        seed: int,
        dtype: torch.dtype | None = None,
        caches: Mapping[str, WindowCache] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.plan, self.points, self.ranks, self.device = plan, tuple(points), ranks, lm.gives_on
        self._lm, self._sequences, self._masks = lm, sequences, masks
        self._lm_batch_size, self._seed, self._dtype = lm_batch_size, seed, dtype
        self._at = {hook_name: lm.at(hook_name) for hook_name in dict.fromkeys(point.hook_name for point in points)}
        self._caches = sorted((caches or {}).items(), key=lambda item: item[1].folder)  # in which jobs take turns

    def _empty(self) -> dict[Point, Held]:
        """Room for one window."""
        size, with_target = self.plan.window_tokens // self.ranks.count, self._masks.wants_clean_target
        d_in = {name: lm.d_in for name, lm in self._at.items()}
        return {point: Held.empty(size, d_in[point.hook_name], self.device, with_target) for point in self.points}

    def window(self, index: int, done_with: Window | None = None, unwanted: Unwanted = _never) -> Window:
        """Window `index`; in any thread, one at a time.

        Args:
            done_with: another that is not read any more; its memory is taken.
            unwanted: looked at before each forward.

        Raises:
            Abandoned: it is not wanted any more.
        """
        memory = self._empty() if done_with is None else done_with.at
        for held in memory.values():
            held.error = None
        with ExitStack() as turns:
            found = {name: turns.enter_context(cache.turn(index, unwanted)) for name, cache in self._own_caches()}
            stored = {name: window for name, window in found.items() if window is not None}
            known = self.ranks.tell({name: window.counts for name, window in stored.items()})[0]
            lacking = [name for name in self._at if name not in known]
            text = self._read_text(index) if lacking else None
            filled, maskable, masked = next(iter(known.values())) if text is None else text.counts
            order_W = self._shuffled(index, filled)
            if self.ranks.is_alone:
                self._fill(index, memory, stored, text, unwanted)
                order_W = order_W.to(self.device)
            else:
                self._fill_share(index, memory, {name: stored.get(name) for name in known}, text, order_W, unwanted)
                order_W = torch.arange(len(order_W) // self.ranks.count, device=self.device)
        for point, held in memory.items():
            for activations_WD in held.tensors():
                activations_WD[:filled].mul_(point.scale)
        return Window(index, memory, order_W, masked / max(1, maskable))

    def _own_caches(self) -> list[tuple[str, WindowCache]]:
        return self._caches if self.ranks.is_first else []

    def _read_text(self, index: int) -> WindowText:
        batch_size, ranks = self._lm_batch_size, self.ranks.count
        return read_window(index, self._sequences, self.plan, self._masks, batch_size, ranks)

    def _shuffled(self, index: int, filled: int) -> Tensor:
        """Rows of the window in batch order. Chance may leave a little fewer than planned: then it begins anew."""
        order_W = torch.randperm(filled, generator=torch_generator(self._seed, "shuffle", index))
        return order_W.repeat(math.ceil(self.plan.window_tokens / filled))[: self.plan.window_tokens]

    def _fill(
        self,
        index: int,
        memory: Mapping[Point, Held],
        stored: Mapping[str, StoredWindow],
        text: WindowText | None,
        unwanted: Unwanted,
    ) -> None:
        """All of it: what is stored, and what the LM gives at the other hook points, which is stored then."""
        for name, window in stored.items():
            for held in _at(name, memory):
                for mine, kept in zip(held.tensors(), window.tensors(), strict=True):
                    mine[: len(kept)] = kept  # in float32 again
        if text is None:
            return
        lacking = {name: [held.tensors() for held in _at(name, memory)] for name in self._at if name not in stored}
        errors = self._forward(text, lacking, unwanted)
        _note(errors, memory)
        for name, tensors in lacking.items():
            if name not in errors:
                self._store(index, name, [activations_WD[: text.filled] for activations_WD in tensors[0]], text)

    def _fill_share(
        self,
        index: int,
        memory: Mapping[Point, Held],
        stored: Mapping[str, StoredWindow | None],
        text: WindowText | None,
        order_W: Tensor,
        unwanted: Unwanted,
    ) -> None:
        """The rows that are this rank's share of each batch, in their order: each rank has the LM read its share of the
        text, and they exchange what it gave.

        Args:
            stored: windows that the first rank has found; the others know of which hook points.
        """
        ranks, filled = self.ranks, int(order_W.max()) + 1
        shares = order_W.view(self.plan.batches_per_window, -1).chunk(ranks.count, dim=1)
        wanted = [rows.flatten() for rows in shares]
        for name, window in stored.items():
            parts = [one.to(self.device).float() for one in window.tensors()] if window else self._room(name, 0)
            self._exchange(parts, wanted, [0, *([filled] * ranks.count)], _at(name, memory))
        if text is None:
            return
        starts = text.starts(ranks.count)
        lacking = {
            name: self._room(name, starts[ranks.rank + 1] - starts[ranks.rank])
            for name in self._at
            if name not in stored
        }
        errors = _of_all(self._forward(text, {name: [parts] for name, parts in lacking.items()}, unwanted), ranks)
        _note(errors, memory)
        writing = ranks.tell([name for name, cache in self._own_caches() if cache.writes and name not in errors])[0]
        for name, parts in lacking.items():
            self._exchange(parts, wanted, starts, _at(name, memory))
            if name in writing:
                whole = [ranks.exchange(part_PD, _for_first(filled, ranks), starts) for part_PD in parts]
                if ranks.is_first:
                    self._store(index, name, whole, text)

    def _room(self, name: str, rows: int) -> list[Tensor]:
        room = Held.empty(rows, self._at[name].d_in, self.device, self._masks.wants_clean_target)
        return room.tensors()

    def _exchange(
        self, parts: Sequence[Tensor], wanted: Sequence[Tensor], starts: Sequence[int], into: Sequence[Held]
    ) -> None:
        for place, part_PD in enumerate(parts):
            mine_WD = self.ranks.exchange(part_PD, wanted, starts)
            for held in into:
                held.tensors()[place].copy_(mine_WD)

    def _forward(
        self, text: WindowText, into: Mapping[str, Sequence[Sequence[Tensor]]], unwanted: Unwanted
    ) -> dict[str, NonFiniteError]:
        """Writes what the LM gives for this rank's sequences.

        Args:
            into: by hook point, the memory of one point or several: activations, and clean targets where there are.

        Returns:
            By hook point, that there is NaN or an infinity: those who read at others go on.
        """
        errors: dict[str, NonFiniteError] = {}
        own = [batch for batch in text.batches if batch.rank == self.ranks.rank]
        for batch in own:
            rows = slice(batch.rows.start - own[0].rows.start, batch.rows.stop - own[0].rows.start)
            readings = [batch.tokens_NT, *([batch.clean_NT] if self._masks.wants_clean_target else [])]
            for place, tokens_NT in enumerate(readings):
                if unwanted():
                    raise Abandoned
                found = self._lm.activations_at(list(into), tokens_NT)
                for name, x_NTD in zip(into, found, strict=True):
                    kept_PD = x_NTD[batch.kept_NT.to(x_NTD.device)][: rows.stop - rows.start]
                    if self._dtype is not None:
                        kept_PD = kept_PD.to(self._dtype).float()
                    try:
                        self._at[name].refuse_non_finite(kept_PD, tokens_NT, batch.kept_NT)
                    except NonFiniteError as error:
                        errors.setdefault(name, error)
                    for tensors in into[name]:
                        tensors[place][rows] = kept_PD
        return errors

    def _store(self, index: int, name: str, tensors: Sequence[Tensor], text: WindowText) -> None:
        cache = dict(self._caches).get(name)
        if cache is not None:
            x_WD, *targets = (activations_WD.cpu() for activations_WD in tensors)
            target_WD = targets[0] if targets else None
            cache.write(index, StoredWindow(x_WD, target_WD, text.maskable, text.masked))


def _at(name: str, memory: Mapping[Point, Held]) -> list[Held]:
    return [held for point, held in memory.items() if point.hook_name == name]


def _note(errors: Mapping[str, NonFiniteError], memory: Mapping[Point, Held]) -> None:
    for name, error in errors.items():
        for held in _at(name, memory):
            held.error = error


def _of_all(errors: Mapping[str, NonFiniteError], ranks: Ranks) -> dict[str, NonFiniteError]:
    """Those of the first rank that has any at a hook point, whose sequences come first."""
    found: dict[str, NonFiniteError] = {}
    for said in ranks.tell({name: str(error) for name, error in errors.items()}):
        for name, message in said.items():
            found.setdefault(name, NonFiniteError(message))
    return found


def _for_first(rows: int, ranks: Ranks) -> list[Tensor]:
    """That the first rank wants so many rows, and the others none."""
    return [torch.arange(rows if rank == 0 else 0) for rank in range(ranks.count)]
