"""How long a run has trained, all its attempts together."""

import time


class TrainingClock:
    """Runs from `start` to `stop`; `seconds` were spent before."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._started: float | None = None

    def start(self) -> None:
        self._started = time.monotonic()

    def stop(self) -> None:
        self._before, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)
