"""The text of a window of the stream: its sequences as the LM reads them, and which activations each gives.

Axes: N sequences, T positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from masked_sae.activations.plan import Plan
from masked_sae.activations.sequences import ShuffledSequences
from masked_sae.errors import InputError
from masked_sae.masks.run_masks import Masks
from masked_sae.ranks import Ranks


@dataclass(frozen=True)
class LMBatch:
    """Sequences of one forward.

    Attributes:
        rank: of several processes that share a window's forwards, the one whose this is.
        tokens_NT: as the LM reads them.
        clean_NT: before any mask.
        kept_NT: where its activations are kept, bool; the last of them may find no place in the window.
        rows: of the window, that they take.
    """

    rank: int
    tokens_NT: Tensor
    clean_NT: Tensor
    kept_NT: Tensor
    rows: slice


@dataclass(frozen=True)
class WindowText:
    """Attributes:
    maskable, masked: tokens of the window that a mask may replace, and that it did.
    """

    batches: list[LMBatch]
    maskable: int
    masked: int

    @property
    def counts(self) -> list[int]:
        """As `StoredWindow.counts`."""
        return [self.filled, self.maskable, self.masked]

    @property
    def filled(self) -> int:
        """Activations that it gives."""
        return self.batches[-1].rows.stop

    def starts(self, ranks: int) -> list[int]:
        """Where the rows of each of so many ranks begin, and the end."""
        ends = {batch.rank: batch.rows.stop for batch in self.batches}
        found = [0]
        for rank in range(ranks):
            found.append(ends.get(rank, found[-1]))
        return found


def read_window(
    index: int, sequences: ShuffledSequences, plan: Plan, masks: Masks, batch_size: int, ranks: int = 1
) -> WindowText:
    """Reads and masks the text of a window, as far as its activations find room.

    Args:
        masks: those that act on the text.
        batch_size: sequences of a forward.
        ranks: processes that have equal shares of the window's sequences, one after another.

    Raises:
        InputError: the masks leave nothing.
    """
    batches: list[LMBatch] = []
    filled = maskable = masked = 0
    first = index * plan.sequences_per_window
    for rank, start, stop in _forwards(plan.sequences_per_window, batch_size, ranks):
        if filled == plan.window_tokens:
            break
        ordinals = np.arange(first + start, first + stop)
        tokens_NT, content_NT = sequences.read(ordinals)
        progress = (ordinals / max(1, plan.sequences - 1)).tolist()
        text = masks.mask_tokens(tokens_NT, content_NT, ordinals.tolist(), progress)
        kept_NT = content_NT & text.counted_NT
        rows = slice(filled, min(filled + int(kept_NT.sum()), plan.window_tokens))
        batches.append(LMBatch(rank, text.tokens_NT, tokens_NT, kept_NT, rows))
        filled = rows.stop
        maskable += int(content_NT.sum())
        masked += int(text.masked_NT.sum())
    if filled == 0:
        valid = f"masks that leave positions to train on; window {index} has none"
        raise InputError("mask", ", ".join(masks.named), valid)
    return WindowText(batches, maskable, masked)


def _forwards(sequences: int, batch_size: int, ranks: int) -> Iterator[tuple[int, int, int]]:
    """Rank, and first and last sequence but one, of each forward of a window."""
    for rank in range(ranks):
        share = Ranks(rank, ranks).share(sequences)
        for start in range(share.start, share.stop, batch_size):
            yield rank, start, min(start + batch_size, share.stop)
