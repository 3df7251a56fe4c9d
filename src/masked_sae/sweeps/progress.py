"""How packs that are trained side by side are doing, as a command shows it while it runs.

On a terminal a line for each worker, and one for the sweep; elsewhere a line whenever a member's state changes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from masked_sae.errors import DamagedFileError
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState
from masked_sae.sweeps.changes import StateChanges
from masked_sae.sweeps.packs import label_of
from masked_sae.sweeps.summary import find_state

_LEAST_SECONDS = 1.0  # of progress, before anything is concluded from it


class Screen(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def look(self, worker: int, pack: Sequence[Run]) -> None:
        """Shows how a pack is doing that a worker trains."""
        ...

    def end(self, worker: int, pack: Sequence[Run]) -> None:
        """The worker is through with the pack."""
        ...


def screen_for(runs: Sequence[Run], waiting: Sequence[Run]) -> Screen:
    """Args:
    runs: of the sweep.
    waiting: those of them that are to be trained.
    """
    console = Console(highlight=False)
    return LiveTable(runs, waiting, console) if console.is_terminal else StateLines(waiting)


class StateLines:
    def __init__(self, waiting: Sequence[Run]) -> None:
        self._changes = StateChanges(waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def look(self, worker: int, pack: Sequence[Run]) -> None:
        self._changes.show(pack)

    def end(self, worker: int, pack: Sequence[Run]) -> None:
        self._changes.show(pack)


@dataclass(frozen=True)
class Share:
    """How much of something is done, from 0 to 1, and the tokens that each member was trained on."""

    done: float
    tokens: float = 0.0


class Pace:
    """How fast a share grows: from when it first grew, so that getting ready does not count."""

    def __init__(self, share: Share, now: float) -> None:
        self._first, self._began, self._has_grown = share, now, False
        self.latest, self._changed = share, now

    def note(self, share: Share, now: float) -> None:
        if share == self.latest:
            return
        if not self._has_grown:
            self._first, self._began, self._has_grown = share, now, True
        self.latest, self._changed = share, now

    @property
    def _seconds(self) -> float:
        return self._changed - self._began

    @property
    def tokens_per_second(self) -> float | None:
        gained = self.latest.tokens - self._first.tokens
        return gained / self._seconds if gained > 0 and self._seconds >= _LEAST_SECONDS else None

    @property
    def left(self) -> timedelta | None:
        """Time, as far as what was done so far tells."""
        gained = self.latest.done - self._first.done
        if gained <= 0 or self._seconds < _LEAST_SECONDS or self.latest.done >= 1:
            return None
        return timedelta(seconds=round(self._seconds / gained * (1 - self.latest.done)))


class LiveTable:
    """Args:
    runs: of the sweep.
    waiting: those of them that are to be trained.
    """

    def __init__(self, runs: Sequence[Run], waiting: Sequence[Run], console: Console) -> None:
        self._states = {run.folder.path: find_state(run.folder) for run in waiting}
        self._done_before, self._count = len(runs) - len(waiting), len(runs)
        self._sweep = Pace(self._share_of(list(self._states)), time.monotonic())
        self._rows: dict[int, tuple[str, Pace]] = {}
        self._live = Live(self.view(), console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def look(self, worker: int, pack: Sequence[Run]) -> None:
        now, label = time.monotonic(), label_of(pack)
        self._read(pack)
        share = self._share_of([run.folder.path for run in pack])
        if worker not in self._rows or self._rows[worker][0] != label:
            self._rows[worker] = label, Pace(share, now)
        self._rows[worker][1].note(share, now)
        self._sweep.note(self._share_of(list(self._states)), now)
        self._live.update(self.view(), refresh=True)

    def end(self, worker: int, pack: Sequence[Run]) -> None:
        self._read(pack)
        del self._rows[worker]

    def view(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("worker", justify="right", no_wrap=True)
        table.add_column("training")  # the one that gives way where the line is short
        for name in ("done", "tok/s", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for worker, (label, pace) in sorted(self._rows.items()):
            rate = pace.tokens_per_second
            cells = [f"{pace.latest.done:.0%}", "-" if rate is None else f"{rate:,.0f}", str(pace.left or "-")]
            table.add_row(str(worker), Text(label, no_wrap=True, overflow="ellipsis"), *cells)
        done = self._done_before + sum(_share(state) == 1 for state in self._states.values())
        left = "" if self._sweep.left is None else f", about {self._sweep.left} left"
        return Group(table, Text(f"{done} of {self._count} done{left}"))

    def _read(self, pack: Sequence[Run]) -> None:
        self._states |= {run.folder.path: find_state(run.folder) for run in pack}

    def _share_of(self, paths: Sequence[Path]) -> Share:
        """Of runs, taken as equally long."""
        states = [self._states[path] for path in paths]
        tokens = [state.tokens for state in states if isinstance(state, RunState)]
        return Share(sum(map(_share, states)) / len(paths), sum(tokens) / len(paths))


def _share(state: RunState | DamagedFileError | None) -> float:
    """All of it once the run is done; little less while it is measured."""
    if not isinstance(state, RunState) or not state.steps:
        return 0.0
    return 1.0 if state.status == "done" else min(0.99, state.step / state.steps)
