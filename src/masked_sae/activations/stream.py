"""Tokens and an LM in, shuffled and masked batches of activations out: a pure function of the batch's index.

Axes: N sequences, T positions, B activations, D `d_in`, W activations of a window.

    run's order of sequences -> window of sequences -> token mask -> LM -> kept positions, scaled -> shuffled batches

Window `w` holds the sequences `w * S` to `(w + 1) * S - 1` of the run's order and gives a fixed number of batches, so
batch `i` lies in window `i // batches_per_window` and needs nothing but its own window. Several hook points are read
from one forward.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from masked_sae.activations.lm import LM
from masked_sae.activations.plan import Plan
from masked_sae.activations.sequences import ShuffledSequences
from masked_sae.activations.stopwatch import Stopwatch
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


class ActivationStream:
    """Training batches by their index, at one hook point or several.

    Args:
        masks: those that act on the text.
        points: none twice.
        lm_batch_size: sequences per forward.
        seed: of the shuffle.
        dtype: that activations are rounded to; None: none coarser than the LM's.

    Attributes:
        watch: the time that windows take.
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
    ) -> None:
        self._lm, self._sequences, self.plan, self._masks = lm, sequences, plan, masks
        self._lm_batch_size, self._seed, self._dtype = lm_batch_size, seed, dtype
        self._at = {hook_name: lm.at(hook_name) for hook_name in dict.fromkeys(point.hook_name for point in points)}
        self.points = tuple(points)
        self.watch = Stopwatch(lm.device)
        self._windows: dict[Point, _Window] = {}
        self._window_index = -1
        self._order_W = torch.empty(0, dtype=torch.long)
        self._masked_share = 0.0

    def at_points(self, index: int) -> Mapping[Point, Batch | NonFiniteError]:
        """Batch `index` at each point, or what keeps it from being trained on; computes its window unless that is the
        one at hand.
        """
        window_index, within = divmod(index, self.plan.batches_per_window)
        if window_index != self._window_index:
            self._window_index = -1  # until it is whole: the memory is that of the window before
            with self.watch:
                self._compute(window_index)
            self._window_index = window_index
        rows_B = self._order_W[within * self.plan.batch_size : (within + 1) * self.plan.batch_size]
        return {point: self._batch(window, rows_B) for point, window in self._windows.items()}

    def batch(self, index: int, point: Point | None = None) -> Batch:
        """Batch `index` at one point; None: the first.

        Raises:
            NonFiniteError: its window has an activation that is NaN or infinite.
        """
        found = self.at_points(index)[point or self.points[0]]
        if isinstance(found, NonFiniteError):
            raise found
        return found

    def _batch(self, window: "_Window", rows_B: Tensor) -> Batch | NonFiniteError:
        if window.error is not None:
            return window.error
        x_BD = window.x_WD[rows_B]
        target_BD = x_BD if window.target_WD is None else window.target_WD[rows_B]
        return Batch(x_BD, target_BD, self._masked_share)

    def _compute(self, index: int) -> None:
        plan = self.plan
        for point in self.points:
            if point not in self._windows:
                with_target = self._masks.wants_clean_target
                d_in = self._at[point.hook_name].d_in
                self._windows[point] = _Window.empty(plan.window_tokens, d_in, self._lm.device, with_target)
            self._windows[point].error = None
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
            self._fill(rows, text.tokens_NT, kept_NT)
            if self._masks.wants_clean_target:
                self._fill(rows, tokens_NT, kept_NT, targets=True)
            filled = rows.stop
            maskable += int(content_NT.sum())
            masked += int(text.masked_NT.sum())
        if filled == 0:
            valid = f"masks that leave positions to train on; window {index} has none"
            raise InputError("mask", ", ".join(self._masks.named), valid)
        self._order_W = self._shuffled(index, filled)
        self._masked_share = masked / max(1, maskable)

    def _fill(self, rows: slice, tokens_NT: Tensor, kept_NT: Tensor, *, targets: bool = False) -> None:
        """Writes the scaled activations at the kept positions, as many as the rows are, from one forward."""
        found = self._lm.activations_at(list(self._at), tokens_NT)
        kept_NT = kept_NT.to(self._lm.device)
        x_WD_at = {name: x_NTD[kept_NT][: rows.stop - rows.start] for name, x_NTD in zip(self._at, found, strict=True)}
        for point, window in self._windows.items():
            into_WD = window.target_WD if targets else window.x_WD
            assert into_WD is not None
            kept_WD = x_WD_at[point.hook_name]
            if self._dtype is not None:
                kept_WD = kept_WD.to(self._dtype).float()
            torch.mul(kept_WD, point.scale, out=into_WD[rows])
            try:
                self._at[point.hook_name].refuse_non_finite(into_WD[rows], tokens_NT, kept_NT)
            except NonFiniteError as error:
                window.error = window.error or error  # those who read at other points go on

    def _shuffled(self, index: int, filled: int) -> Tensor:
        """Rows of the window in batch order. Chance may leave a little fewer than planned: then it begins anew."""
        order_W = torch.randperm(filled, generator=torch_generator(self._seed, "shuffle", index))
        return order_W.repeat(math.ceil(self.plan.window_tokens / filled))[: self.plan.window_tokens].to(
            self._lm.device
        )


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
