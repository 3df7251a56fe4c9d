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
        self._marks: list[torch.cuda.Event] = []  # start and end of each block not yet added up
        self._started = 0.0

    def __enter__(self) -> None:
        if self._on_cuda:
            self._mark()
        else:
            self._started = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._on_cuda:
            self._mark()
        else:
            self._seconds += time.perf_counter() - self._started

    @property
    def seconds(self) -> float:
        """In all blocks so far."""
        if self._marks:
            self._marks[-1].synchronize()
            for start, end in zip(self._marks[::2], self._marks[1::2], strict=True):
                self._seconds += start.elapsed_time(end) / 1000
            self._marks.clear()
        return self._seconds

    def _mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)
