"""How long the device worked on something, by its own clock."""

import time
from types import TracebackType

import torch


class Stopwatch:
    """Adds up the seconds of the `with` blocks it stands around.

    On CUDA they are taken between events in the stream, so that work which was queued before a block does not count,
    and nothing waits for the device until the seconds are read.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._seconds = 0.0
        self._started = 0.0
        self._start: torch.cuda.Event | None = None  # of the block that is open
        self._blocks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []  # closed, and not yet added up

    def __enter__(self) -> None:
        if self._on_cuda:
            self._start = _mark()
        else:
            self._started = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._start is not None:
            self._blocks.append((self._start, _mark()))
            self._start = None
        else:
            self._seconds += time.perf_counter() - self._started

    @property
    def seconds(self) -> float:
        """In all blocks so far; of one that is still open, nothing."""
        for start, end in self._blocks:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        self._blocks.clear()
        return self._seconds


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
