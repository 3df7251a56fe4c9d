"""The next window is made in a thread of its own while the SAEs train on this one: two are in memory.

What is made is what would be made in turn, to the bit: a window is a function of its index, and the thread computes
with as many threads of torch's as the one that asks. On a GPU it has a stream of its own; events keep either from
touching a window before the other is done with it.
"""

from collections.abc import Callable
from contextlib import nullcontext
from threading import Event, Thread
from typing import Generic, TypeVar

import torch

Window = TypeVar("Window")
Unwanted = Callable[[], bool]  # looked at between forwards
_PATIENCE = 60.0  # seconds for a forward to end; one that takes longer is left to end with the process


class Abandoned(Exception):
    """Nobody wants the window any more that was in the making."""


class Ahead(Generic[Window]):
    """Gives windows as they are asked for, and makes the one after.

    Args:
        make: window `index`, in the memory of another where one is given. One call at a time.
        windows: how many there are: none is made beyond the last.
        device: where they lie.
    """

    def __init__(
        self, make: Callable[[int, Window | None, Unwanted], Window], windows: int, device: torch.device
    ) -> None:
        self._make, self._windows = make, windows
        self._device = device
        self._lane = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._making: _Making[Window] | None = None

    def window(self, index: int, done_with: Window | None) -> Window:
        """Raises what making it raised.

        Args:
            done_with: another that is not read any more, as far as this thread has been told to: its memory is taken.
        """
        if self._making is None or self._making.index != index:
            self._abandon(None)  # however long: no two are made at a time
            self._begin(index, done_with)
            done_with = None
        assert self._making is not None
        try:
            found = self._making.result()
        except Exception:
            self._making = None
            raise
        if index + 1 < self._windows:
            self._begin(index + 1, done_with)
        return found

    def close(self) -> None:
        """Abandons what is in the making, which ends after the forward that it is at. For good."""
        self._abandon(_PATIENCE)

    def _abandon(self, patience: float | None) -> None:
        if self._making is not None:
            self._making.abandon(patience)
        self._making = None

    def _begin(self, index: int, memory: Window | None) -> None:
        self._making = _Making(self._make, index, memory, self._device, self._lane)


class _Making(Generic[Window]):
    """A window in the making."""

    def __init__(
        self,
        make: Callable[[int, Window | None, Unwanted], Window],
        index: int,
        memory: Window | None,
        device: torch.device,
        lane: torch.cuda.Stream | None,
    ) -> None:
        self.index = index
        self._make, self._memory, self._device, self._lane = make, memory, device, lane
        self._unwanted, self._made, self._error = Event(), list[Window](), list[BaseException]()
        self._threads = torch.get_num_threads()  # each thread has its own number
        self._before = torch.cuda.Event() if lane is not None else None
        self._after = torch.cuda.Event() if lane is not None else None
        if self._before is not None:
            self._before.record(torch.cuda.current_stream(device))
        self._thread = Thread(target=self._run, name=f"window {index}", daemon=True)
        self._thread.start()

    def result(self) -> Window:
        self._thread.join()
        if self._error:
            raise self._error.pop()  # which knows this one
        if self._after is not None:
            torch.cuda.current_stream(self._device).wait_event(self._after)
        return self._made[0]

    def abandon(self, patience: float | None) -> None:
        self._unwanted.set()
        self._thread.join(patience)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        try:
            with nullcontext() if self._lane is None else torch.cuda.stream(self._lane):
                if self._lane is not None and self._before is not None:
                    self._lane.wait_event(self._before)
                self._made.append(self._make(self.index, self._memory, self._unwanted.is_set))
                if self._lane is not None and self._after is not None:
                    self._after.record(self._lane)
        except Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001 - whoever asks for the window gets it
            self._error.append(error)
