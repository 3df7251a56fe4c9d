"""Packs trained side by side: each in a worker (`sweeps/worker.py`), which is given the next when it is free."""

import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from masked_sae.errors import notice
from masked_sae.runs.lock import HeldError
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState, Status
from masked_sae.sweeps.ending import end_run
from masked_sae.sweeps.packs import label_of
from masked_sae.sweeps.progress import Screen
from masked_sae.sweeps.worker import Place, work
from masked_sae.training.done import known_state
from masked_sae.training.out_of_memory import WORKERS, killed
from masked_sae.training.stop_signals import SIGNALS, StopRequest, how_it_ended

_LOOKS_EVERY_SECONDS = 1.0
_MOST_LOSSES = 2  # of a pack's worker; then it is the pack
_SPAWN = multiprocessing.get_context("spawn")


def train_side_by_side(packs: Sequence[Sequence[Run]], places: Sequence[Place], screen: Screen) -> bool:
    """Whether all packs were trained to their ends; else a signal came, and every member in training has a checkpoint.

    A second SIGINT ends workers at once, and is a KeyboardInterrupt.
    """
    training = _Training(packs, places, screen)
    stop = StopRequest()
    stop.listen()
    try:
        with screen:
            training.run(stop)
    finally:
        training.kill()
        stop.close()
    return not stop.requested


@dataclass(frozen=True)
class _Worker:
    """A worker as its parent sees it.

    Attributes:
        pack: that it was given last.
    """

    place: Place
    process: SpawnProcess
    connection: Connection
    pack: Sequence[Run]


class _Training:
    def __init__(self, packs: Sequence[Sequence[Run]], places: Sequence[Place], screen: Screen) -> None:
        self._waiting, self._free, self._screen = deque(packs), deque(places), screen
        self._busy: list[_Worker] = []
        self._losses = Counter[Path]()  # of workers, by the pack's first member

    def run(self, stop: StopRequest) -> None:
        told = False
        while self._busy or (self._waiting and not stop.requested):
            while self._free and self._waiting and not stop.requested:
                self._busy.append(_start(self._free.popleft(), self._waiting.popleft()))
            wait([worker.connection for worker in self._busy], _LOOKS_EVERY_SECONDS)
            if stop.requested and not told:
                told = True
                for worker in self._busy:
                    worker.process.terminate()
            for worker in list(self._busy):
                self._screen.look(worker.place.number, worker.pack)
                self._hear(worker, stop)

    def kill(self) -> None:
        """Ends the workers that are left, where something ended their parent's loop."""
        for worker in self._busy:
            worker.process.kill()
        for worker in self._busy:
            worker.process.join()
            for run in worker.pack:
                _end_unfinished(run, "preempted", "ended at once, by a second Ctrl-C or by an error of the command")

    def _hear(self, worker: _Worker, stop: StopRequest) -> None:
        """What a worker has to say: how its pack ended, or nothing any more."""
        ended = None
        with suppress(EOFError, OSError):
            if worker.connection.poll():
                ended = worker.connection.recv()
            elif worker.process.exitcode is None:
                return
        if ended is None:
            self._lose(worker, stop)
        else:
            self._conclude(worker, ended, stop)

    def _conclude(self, worker: _Worker, ended: Sequence[RunState | None], stop: StopRequest) -> None:
        self._busy.remove(worker)
        self._screen.end(worker.place.number, worker.pack)
        if not stop.requested:
            if any(state is not None and state.status == "preempted" for state in ended):
                self._go_on_once(worker, "was stopped by a signal to it alone")
            else:
                for run in [run for run, state in zip(worker.pack, ended, strict=True) if state is None]:
                    notice(f"{run.label}: another process is at it; see {worker.place.log}")
        if self._waiting and not stop.requested:
            self._busy.append(replace(worker, pack=self._waiting.popleft()))
            _give(self._busy[-1])
        else:
            worker.connection.close()  # it leaves
            worker.process.join()
            self._free.append(worker.place)

    def _lose(self, worker: _Worker, stop: StopRequest) -> None:
        self._busy.remove(worker)
        worker.process.join()
        worker.connection.close()
        self._free.append(worker.place)
        if not stop.requested:
            self._go_on_once(worker, how_it_ended(worker.process.exitcode or 0))
        self._screen.end(worker.place.number, worker.pack)

    def _go_on_once(self, worker: _Worker, how: str) -> None:
        """Whatever took a pack's worker may be no fault of the pack; twice, it is taken for one."""
        first, log = worker.pack[0].folder.path, worker.place.log
        self._losses[first] += 1
        if self._losses[first] < _MOST_LOSSES:
            notice(f"{label_of(worker.pack)}: its worker {how}; another goes on with it from its checkpoints")
            self._waiting.appendleft(worker.pack)
            return
        for run in worker.pack:
            help_ = ""
            if worker.process.exitcode == -signal.SIGKILL:
                help_ = ", " + killed(run, known_state(run.folder), WORKERS, len(worker.pack))
            _end_unfinished(run, "failed", f"its worker {how}{help_}; and so did the one before; see {log}")


def _start(place: Place, pack: Sequence[Run]) -> _Worker:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=work, args=(place, theirs), name=f"worker-{place.number}")
    with _signals_held_back():
        process.start()
    theirs.close()
    worker = _Worker(place, process, ours, pack)
    _give(worker)
    return worker


def _give(worker: _Worker) -> None:
    with suppress(OSError):  # it has ended, as the next look at it shows
        worker.connection.send(worker.pack)


@contextmanager
def _signals_held_back() -> Generator[None]:
    """A process that is started inside has these signals blocked, until it takes them up."""
    resource_tracker.ensure_running()  # else it is started inside, and lets them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_unfinished(run: Run, status: Status, why: str) -> None:
    """For a worker that can no longer say it. Its lock went with it, unless another process is at the run by now."""
    try:
        end_run(run.folder, status, why)
    except HeldError as held:
        notice(str(held))
