"""Signals that ask a run to stop: noted at once, obeyed at the next step's end."""

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopRequest:
    """Set by SIGTERM, SIGINT or SIGUSR2 while it listens; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        return self.signal.name if self.signal is not None else "nothing"

    def listen(self) -> None:
        for number in SIGNALS:
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)

    def close(self) -> None:
        """Puts back the handlers there were before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        if self.signal is not signal.SIGUSR2:  # SIGTERM follows it at the time limit, and must not hide it
            self.signal = signal.Signals(number)


def how_it_ended(code: int) -> str:
    """Of a process that has ended, by its exit code: below 0 by a signal."""
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL, as by a kernel that is out of memory"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
