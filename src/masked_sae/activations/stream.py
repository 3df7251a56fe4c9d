"""Tokens and an LM in, shuffled and masked batches of activations out: a pure function of the batch's index.

Axes: N sequences, T positions, B activations, D `d_in`, W activations of a window.

    run's order of sequences -> window of sequences -> token mask -> LM -> kept positions, scaled -> shuffled batches

Window `w` holds the sequences `w * S` to `(w + 1) * S - 1` of the run's order and gives a fixed number of batches, so
batch `i` lies in window `i // batches_per_window` and needs nothing but its own window.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from masked_sae.activations.lm import LM
from masked_sae.activations.plan import Plan
from masked_sae.activations.sequences import ShuffledSequences
from masked_sae.activations.stopwatch import Stopwatch
from masked_sae.errors import InputError
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


class ActivationStream:
    """The training batches of a run, by index or in order.

    Args:
        scale: what the LM's activations are multiplied by.
        lm_batch_size: sequences per forward.
        seed: of the shuffle.

    Attributes:
        watch: the time that windows take.
    """

    def __init__(
        self,
        lm: LM,
        sequences: ShuffledSequences,
        plan: Plan,
        masks: Masks,
        *,
        scale: float,
        lm_batch_size: int,
        seed: int,
    ) -> None:
        self._lm, self._sequences, self.plan, self._masks = lm, sequences, plan, masks
        self.scale, self._lm_batch_size, self._seed = scale, lm_batch_size, seed
        self.watch = Stopwatch(lm.device)
        self._window: _Window | None = None
        self._window_index = -1

    def batch(self, index: int) -> Batch:
        """Batch `index` of the run; computes its window unless that is the one at hand."""
        window_index, within = divmod(index, self.plan.batches_per_window)
        if window_index != self._window_index or self._window is None:
            self._window_index = -1  # until it is whole: the memory is that of the window before
            with self.watch:
                self._window = self._compute(window_index, reuse=self._window)
            self._window_index = window_index
        window = self._window
        rows_B = window.order_W[within * self.plan.batch_size : (within + 1) * self.plan.batch_size]
        x_BD = window.x_WD[rows_B]
        target_BD = x_BD if window.target_WD is None else window.target_WD[rows_B]
        return Batch(x_BD, target_BD, window.masked_share)

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches `start` to the last."""
        return (self.batch(index) for index in range(start, self.plan.steps))

    def _compute(self, index: int, reuse: "_Window | None") -> "_Window":
        plan, lm = self.plan, self._lm
        window = reuse or _Window.empty(plan.window_tokens, lm.d_in, lm.device, self._masks.wants_clean_target)
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
            self._fill(window.x_WD, rows, text.tokens_NT, kept_NT)
            if window.target_WD is not None:
                self._fill(window.target_WD, rows, tokens_NT, kept_NT)
            filled = rows.stop
            maskable += int(content_NT.sum())
            masked += int(text.masked_NT.sum())
        if filled == 0:
            valid = f"masks that leave positions to train on; window {index} has none"
            raise InputError("mask", ", ".join(self._masks.named), valid)
        window.order_W = self._shuffled(index, filled)
        window.masked_share = masked / max(1, maskable)
        return window

    def _fill(self, into_WD: Tensor, rows: slice, tokens_NT: Tensor, kept_NT: Tensor) -> None:
        """Writes the scaled activations at the kept positions, as many as the rows are."""
        x_NTD = self._lm.activations(tokens_NT)
        kept_WD = x_NTD[kept_NT.to(x_NTD.device)][: rows.stop - rows.start]
        torch.mul(kept_WD, self.scale, out=into_WD[rows])
        self._lm.refuse_non_finite(into_WD[rows], tokens_NT, kept_NT)

    def _shuffled(self, index: int, filled: int) -> Tensor:
        """Rows of the window in batch order. Chance may leave a little fewer than planned: then it begins anew."""
        order_W = torch.randperm(filled, generator=torch_generator(self._seed, "shuffle", index))
        return order_W.repeat(math.ceil(self.plan.window_tokens / filled))[: self.plan.window_tokens].to(
            self._lm.device
        )


@dataclass
class _Window:
    """Activations held at once; the memory serves one window after the other."""

    x_WD: Tensor
    target_WD: Tensor | None
    order_W: Tensor
    masked_share: float

    @classmethod
    def empty(cls, size: int, d_in: int, device: torch.device, with_target: bool) -> "_Window":
        target_WD = torch.empty(size, d_in, device=device) if with_target else None
        return cls(torch.empty(size, d_in, device=device), target_WD, torch.empty(0, dtype=torch.long), 0.0)
