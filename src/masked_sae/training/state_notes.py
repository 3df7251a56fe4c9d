"""`state.json` while a run trains: at each checkpoint, and every few seconds between them."""

import time
from pathlib import Path
from typing import Any

from masked_sae.runs.curve import Metrics, Row
from masked_sae.runs.state import RunState, write_state
from masked_sae.training.clock import TrainingClock

_EVERY_SECONDS = 10.0  # between checkpoints
_SHOWN = ("loss", "l0", "explained_variance")


class StateNotes:
    """A sink for what is measured, which also hears of checkpoints.

    Attributes:
        state: as it was last written.
        latest: what was measured last, in this attempt.
    """

    def __init__(self, path: Path, state: RunState, batch_size: int, clock: TrainingClock) -> None:
        self._path, self.state, self._batch_size, self._clock = path, state, batch_size, clock
        self._noted_at = time.monotonic()
        self.latest: Metrics = {}

    def __call__(self, row: Row) -> None:
        self.latest = row.metrics
        if time.monotonic() - self._noted_at > _EVERY_SECONDS:
            self._noted_at = time.monotonic()
            self.note(row.step)

    def note(self, step: int, **changes: Any) -> RunState:
        """Writes how far the run is, with changes of its state."""
        progress: dict[str, Any] = {
            "step": step,
            "tokens": step * self._batch_size,
            "seconds": round(self._clock.seconds, 2),
        }
        if self.latest:
            progress["tokens_per_second"] = self.latest["tokens_per_second"]
            progress["metrics"] = {key: self.latest[key] for key in _SHOWN}
        self.state = write_state(self._path, self.state, **progress, **changes)
        return self.state
