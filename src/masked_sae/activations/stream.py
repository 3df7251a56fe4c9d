"""Tokens and an LM in, shuffled and masked batches of activations out: a pure function of the batch's index.

Axes: N sequences, T positions, B activations, D `d_in`, W activations of a window.

    run's order of sequences -> window of sequences -> token mask -> LM -> kept positions, scaled -> shuffled batches

Window `w` holds the sequences `w * S` to `(w + 1) * S - 1` of the run's order and gives a fixed number of batches, so
batch `i` lies in window `i // batches_per_window` and needs nothing but its own window. Several hook points are read
from one forward.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from masked_sae.activations.ahead import Abandoned, Ahead, Unwanted
from masked_sae.activations.lm import LM
from masked_sae.activations.plan import Plan
from masked_sae.activations.sequences import ShuffledSequences
from masked_sae.activations.stopwatch import Stopwatch
from masked_sae.activations.window_cache import StoredWindow, WindowCache
from masked_sae.errors import InputError, NonFiniteError
from masked_sae.masks.run_masks import Masks
from masked_sae.randomness import torch_generator


class Batch(NamedTuple):
    """Activations for one SAE step.

    Attributes:
        x_BD: what the SAE reads: activations on the masked text.
        target_BD: what it has to give back; the same tensor unless the target is the clean text's.
        masked_share: share of the window's maskable tokens that were replaced.
    """

    x_BD: Tensor
    target_BD: Tensor
    masked_share: float


class Point(NamedTuple):
    """Where activations are read, and what they are multiplied by."""

    hook_name: str
    scale: float


def _never() -> bool:
    return False


class ActivationStream:
    """Training batches by their index, at one hook point or several.

    Args:
        masks: those that act on the text.
        points: none twice.
        lm_batch_size: sequences per forward.
        seed: of the shuffle.
        dtype: that activations are rounded to; None: none coarser than the LM's.
        caches: of windows on disk, by hook point; those without one are computed.
        ahead: whether the next window is made while this one is read; then `close` has to follow.

    Attributes:
        watch: the time that windows take, or are waited for.
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
        ahead: bool = False,
    ) -> None:
        self._lm, self._sequences, self.plan, self._masks = lm, sequences, plan, masks
        self._lm_batch_size, self._seed, self._dtype = lm_batch_size, seed, dtype
        self._at = {hook_name: lm.at(hook_name) for hook_name in dict.fromkeys(point.hook_name for point in points)}
        self.points = tuple(points)
        self._caches = sorted((caches or {}).items(), key=lambda item: item[1].folder)  # in which jobs take turns
        self.watch = Stopwatch(lm.gives_on)
        self._windows: dict[Point, _Window] = {}  # in the making
        self._unwanted = _never
        self._ahead = Ahead(self.window, plan.windows, lm.gives_on) if ahead else None
        self._at_hand: WholeWindow | None = None

    def at_points(self, index: int) -> Mapping[Point, Batch | NonFiniteError]:
        """Batch `index` at each point, or what keeps it from being trained on; computes its window unless that is the
        one at hand.
        """
        window_index, within = divmod(index, self.plan.batches_per_window)
        whole = self._at_hand
        if whole is None or whole.index != window_index:
            self._at_hand = None  # until it is whole: the memory is that of a window before
            with self.watch:
                whole = self._made(window_index, whole)
            self._at_hand = whole
        rows_B = whole.order_W[within * self.plan.batch_size : (within + 1) * self.plan.batch_size]
        return {point: _batch(window, rows_B, whole.masked_share) for point, window in whole.windows.items()}

    def close(self) -> None:
        """Ends what runs ahead; what is asked for later is made in its turn."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None  # which knows this stream, whose memory is to go with its last use

    def batch(self, index: int, point: Point | None = None) -> Batch:
        """Batch `index` at one point; None: the first.

        Raises:
            NonFiniteError: its window has an activation that is NaN or infinite.
        """
        found = self.at_points(index)[point or self.points[0]]
        if isinstance(found, NonFiniteError):
            raise found
        return found

    def window(self, index: int, memory: "WholeWindow | None" = None, unwanted: Unwanted = _never) -> "WholeWindow":
        """Window `index`, by the index alone; in any thread, one at a time.

        Args:
            memory: another that is not read any more; its memory is taken.
            unwanted: looked at before each forward.

        Raises:
            Abandoned: it is not wanted any more.
        """
        self._unwanted = unwanted
        self._windows = {} if memory is None else memory.windows
        return self._compute(index)

    def _made(self, index: int, done_with: "WholeWindow | None") -> "WholeWindow":
        return self.window(index, done_with) if self._ahead is None else self._ahead.window(index, done_with)

    def _compute(self, index: int) -> "WholeWindow":
        for point in self.points:
            if point not in self._windows:
                with_target = self._masks.wants_clean_target
                d_in = self._at[point.hook_name].d_in
                self._windows[point] = _Window.empty(self.plan.window_tokens, d_in, self._lm.gives_on, with_target)
            self._windows[point].error = None
        with ExitStack() as turns:
            found = {name: turns.enter_context(cache.turn(index, self._unwanted)) for name, cache in self._caches}
            stored = {name: window for name, window in found.items() if window is not None}
            lacking = [name for name in self._at if name not in stored]
            read = self._forward(index, lacking) if lacking else None
            if read is not None:
                self._store(index, lacking, read)
        for name, window in stored.items():
            read = self._take(name, window)
        assert read is not None
        for point, window in self._windows.items():
            for activations_WD in window.tensors():
                activations_WD[: read.filled].mul_(point.scale)
        order_W = self._shuffled(index, read.filled)
        return WholeWindow(index, self._windows, order_W, read.masked / max(1, read.maskable))

    def _forward(self, index: int, hook_names: Sequence[str]) -> "_Counts":
        """Writes what the LM gives into the windows of these hook points."""
        plan = self.plan
        filled = maskable = masked = 0
        first = index * plan.sequences_per_window
        for offset in range(0, plan.sequences_per_window, self._lm_batch_size):
            if filled == plan.window_tokens:
                break
            stop = min(offset + self._lm_batch_size, plan.sequences_per_window)
            ordinals = np.arange(first + offset, first + stop)
            tokens_NT, content_NT = self._sequences.read(ordinals)
            progress = (ordinals / max(1, plan.sequences - 1)).tolist()
            text = self._masks.mask_tokens(tokens_NT, content_NT, ordinals.tolist(), progress)
            kept_NT = content_NT & text.counted_NT
            rows = slice(filled, min(filled + int(kept_NT.sum()), plan.window_tokens))
            self._fill(hook_names, rows, text.tokens_NT, kept_NT)
            if self._masks.wants_clean_target:
                self._fill(hook_names, rows, tokens_NT, kept_NT, targets=True)
            filled = rows.stop
            maskable += int(content_NT.sum())
            masked += int(text.masked_NT.sum())
        if filled == 0:
            valid = f"masks that leave positions to train on; window {index} has none"
            raise InputError("mask", ", ".join(self._masks.named), valid)
        return _Counts(filled, maskable, masked)

    def _fill(
        self, hook_names: Sequence[str], rows: slice, tokens_NT: Tensor, kept_NT: Tensor, *, targets: bool = False
    ) -> None:
        """Writes the activations at the kept positions, as many as the rows are, from one forward."""
        if self._unwanted():
            raise Abandoned
        found = self._lm.activations_at(hook_names, tokens_NT)
        for name, x_NTD in zip(hook_names, found, strict=True):
            kept_WD = x_NTD[kept_NT.to(x_NTD.device)][: rows.stop - rows.start]
            if self._dtype is not None:
                kept_WD = kept_WD.to(self._dtype).float()
            try:
                self._at[name].refuse_non_finite(kept_WD, tokens_NT, kept_NT)
            except NonFiniteError as error:
                for window in self._at_hook_point(name):
                    window.error = window.error or error  # those who read at other points go on
            for window in self._at_hook_point(name):
                window.tensors()[-1 if targets else 0][rows] = kept_WD

    def _at_hook_point(self, name: str) -> "list[_Window]":
        return [window for point, window in self._windows.items() if point.hook_name == name]

    def _store(self, index: int, hook_names: Sequence[str], read: "_Counts") -> None:
        for name, cache in self._caches:
            window = self._at_hook_point(name)[0]
            if name in hook_names and window.error is None:
                x_WD, *targets = (activations_WD[: read.filled].cpu() for activations_WD in window.tensors())
                cache.write(index, StoredWindow(x_WD, targets[0] if targets else None, read.maskable, read.masked))

    def _take(self, name: str, stored: StoredWindow) -> "_Counts":
        filled = len(stored.x_WD)
        for window in self._at_hook_point(name):
            window.x_WD[:filled] = stored.x_WD  # in float32 again
            if window.target_WD is not None:
                assert stored.target_WD is not None
                window.target_WD[:filled] = stored.target_WD
        return _Counts(filled, stored.maskable, stored.masked)

    def _shuffled(self, index: int, filled: int) -> Tensor:
        """Rows of the window in batch order. Chance may leave a little fewer than planned: then it begins anew."""
        order_W = torch.randperm(filled, generator=torch_generator(self._seed, "shuffle", index))
        return order_W.repeat(math.ceil(self.plan.window_tokens / filled))[: self.plan.window_tokens].to(
            self._lm.gives_on
        )


def _batch(window: "_Window", rows_B: Tensor, masked_share: float) -> Batch | NonFiniteError:
    if window.error is not None:
        return window.error
    x_BD = window.x_WD[rows_B]
    target_BD = x_BD if window.target_WD is None else window.target_WD[rows_B]
    return Batch(x_BD, target_BD, masked_share)


class _Counts(NamedTuple):
    """Of a window: activations, and tokens that could be masked, and were."""

    filled: int
    maskable: int
    masked: int


@dataclass
class _Window:
    """Activations held at once at a point; the memory serves one window after the other."""

    x_WD: Tensor
    target_WD: Tensor | None
    error: NonFiniteError | None = None

    @classmethod
    def empty(cls, size: int, d_in: int, device: torch.device, with_target: bool) -> "_Window":
        target_WD = torch.empty(size, d_in, device=device) if with_target else None
        return cls(torch.empty(size, d_in, device=device), target_WD)

    def tensors(self) -> list[Tensor]:
        """Activations, and clean targets where there are."""
        return [self.x_WD] if self.target_WD is None else [self.x_WD, self.target_WD]


@dataclass(frozen=True)
class WholeWindow:
    """A window, ready to be read.

    Attributes:
        windows: at each point.
        order_W: rows, in the order of the batches.
        masked_share: as of a batch.
    """

    index: int
    windows: dict[Point, _Window]
    order_W: Tensor
    masked_share: float
