"""Tokens and an LM in, shuffled and masked batches of activations out: a pure function of the batch's index.

Axes: B activations, D `d_in`.

    run's order of sequences -> window of sequences -> token mask -> LM -> kept positions, scaled -> shuffled batches

Window `w` holds the sequences `w * S` to `(w + 1) * S - 1` of the run's order and gives a fixed number of batches, so
batch `i` lies in window `i // batches_per_window` and needs nothing but its own window. Several hook points are read
from one forward.

Where several processes train together, each forwards its share of a window's sequences, and they exchange activations:
each then has the rows that are its share of every batch.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from masked_sae.activations.ahead import Ahead
from masked_sae.activations.stopwatch import Stopwatch
from masked_sae.activations.windows import Held, Point, Window, Windows
from masked_sae.errors import NonFiniteError


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
    """Training batches by their index, at one hook point or several.

    Args:
        ahead: whether the next window is made while this one is read; then `close` has to follow.

    Attributes:
        watch: the time that windows take, or are waited for.
    """

    def __init__(self, windows: Windows, *, ahead: bool = False) -> None:
        self._windows, self.plan, self.points = windows, windows.plan, windows.points
        self.watch = Stopwatch(windows.device)
        self._rows = windows.plan.batch_size // windows.ranks.count
        self._ahead = Ahead(windows.window, self.plan.windows, windows.device) if ahead else None
        self._at_hand: Window | None = None

    def at_points(self, index: int) -> Mapping[Point, Batch | NonFiniteError]:
        """Batch `index` at each point, or what keeps it from being trained on; computes its window unless that is the
        one at hand.
        """
        window_index, within = divmod(index, self.plan.batches_per_window)
        window = self._at(window_index)
        rows_B = window.order_W[within * self._rows : (within + 1) * self._rows]
        return {point: _batch(held, rows_B, window.masked_share) for point, held in window.at.items()}

    def batch(self, index: int, point: Point | None = None) -> Batch:
        """Batch `index` at one point; None: the first.

        Raises:
            NonFiniteError: its window has an activation that is NaN or infinite.
        """
        found = self.at_points(index)[point or self.points[0]]
        if isinstance(found, NonFiniteError):
            raise found
        return found

    def close(self) -> None:
        """Ends what runs ahead; what is asked for later is made in its turn."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None  # whose memory is to go with its last use

    def _at(self, index: int) -> Window:
        whole = self._at_hand
        if whole is None or whole.index != index:
            self._at_hand = None  # until it is whole: the memory is that of a window before
            make = self._windows.window if self._ahead is None else self._ahead.window
            with self.watch:
                whole = make(index, whole)
            self._at_hand = whole
        return whole


def _batch(held: Held, rows_B: Tensor, masked_share: float) -> Batch | NonFiniteError:
    if held.error is not None:
        return held.error
    x_BD = held.x_WD[rows_B]
    target_BD = x_BD if held.target_WD is None else held.target_WD[rows_B]
    return Batch(x_BD, target_BD, masked_share)
