"""What runs on a node of a cluster: a pack of runs, each from its checkpoint if it has one.

A job carries plain values alone, since it is read by the code that it is to be trained with, which may be older.
"""

import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from masked_sae.bundled import PACKAGE
from masked_sae.command_line import explain
from masked_sae.errors import InputError, one_line
from masked_sae.runs.attempts import usable_cpus
from masked_sae.runs.carried import unpacked
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import DEAD_AFTER_SECONDS, HeldError
from masked_sae.runs.run import Run
from masked_sae.runs.state import ENDED, RunState, slurm_job_id
from masked_sae.sweeps.ending import end_run
from masked_sae.sweeps.jobs import sent_jobs
from masked_sae.sweeps.packs import train_members
from masked_sae.sweeps.slurm_queue import cancel_jobs
from masked_sae.sweeps.waiting import Chained, is_waiting, let_go, take_waiting
from masked_sae.training.done import known_state
from masked_sae.training.follow import follow_in_job
from masked_sae.training.lead import dismiss_tasks
from masked_sae.training.rank_group import task_of_job

_LONGEST_GRACE_SECONDS = 3600.0


class TimeIsUp(BaseException):
    """A signal, outside of training, that ends a link of a chain of jobs."""


class PackJob:
    """The members of a pack, in a job.

    On submitit's signal (preemption, or the time limit drawing near) training writes a checkpoint of each member at the
    next step's end and this job hands the signal on to submitit's handler, which requeues it; a link of a chain ends,
    and the next one goes on. On SIGTERM alone it writes them and waits for the end: SLURM requeues a preempted job by
    itself, but not one that leaves first.

    Args:
        runs: as `carried` gives them.
        code: the folder of the code that they are to be trained with; None for what is there.
        sweep: the folder that keeps what waits for room in the queue.
        link: which of a chain of jobs this is, from 0, and how many it has. A job that may be queued again is alone.
    """

    def __init__(
        self, runs: Sequence[Mapping[str, Any]], code: str | None, sweep: str, link: tuple[int, int] = (0, 1)
    ) -> None:
        self._runs, self._code, self._sweep, self._link = list(runs), code, sweep, link
        self._first = Path(self._runs[0]["folder"])
        self._has_taken = False
        self._has_time = True

    def __call__(self) -> str:
        if task_of_job()[0] > 0:
            follow_in_job()
            return "followed"
        try:
            return self._lead()
        finally:
            dismiss_tasks()

    def _lead(self) -> str:
        print(f"on {socket.gethostname()}, CPUs {usable_cpus()}, code {self._code or 'as it is'}", flush=True)
        self._has_time = True
        said = [self._train()]
        while self._has_time and self._take():
            said.append(self._train())
            if self._has_time:
                let_go(Path(self._sweep), slurm_job_id() or "", done=True)
        return ", ".join(said)

    def checkpoint(self) -> Any:
        """What submitit queues again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _train(self) -> str:
        is_chained = self._link[1] > 1
        if is_chained:
            signal.signal(signal.SIGUSR2, _end)
        runs = self._unpacked()
        try:
            states = train_members(runs, patience=3 * DEAD_AFTER_SECONDS) if runs else []
            stopped = [state for state in states if state is not None and state.status == "preempted"]
        except TimeIsUp:
            states, stopped = [], [state for run in runs if (state := known_state(run.folder)) is not None]
        if stopped:
            self._has_time = False
            if is_chained:
                self._end_link()
            else:
                self._give_way(stopped)
        if is_chained and not is_waiting(Path(self._sweep)) and all(_has_ended(one["folder"]) for one in self._runs):
            self._spare_the_rest()
        return ", ".join("held by another process" if state is None else state.status for state in states)

    def _unpacked(self) -> list[Run]:
        """Those that are left to do; of one that cannot be, its state says why."""
        runs: list[Run] = []
        for one in self._runs:
            state = known_state(RunFolder(Path(one["folder"])))
            if state is not None and state.status in ENDED - {"done"}:
                continue  # in this job, before it was requeued: it is submitted with members that are `created`
            try:
                _check_code(self._code)
                runs.append(unpacked(one))
            except Exception as error:  # noqa: BLE001 - of whatever kind: older code may not know what it carries
                _fail(Path(one["folder"]), explain(error) or one_line(error))
        return runs

    def _end_link(self) -> None:
        place, of = self._link
        if self._has_taken:  # the next link carries what this one did
            let_go(Path(self._sweep), slurm_job_id() or "", done=False)
        elif place == of - 1:
            for one in self._runs:
                _fail(Path(one["folder"]), f"not done when the last of {of} jobs (hydra.launcher.chain) ended")

    def _take(self) -> bool:
        """Goes on with a pack that the queue had no room for."""
        taken = take_waiting(Path(self._sweep), self._code, slurm_job_id() or "")
        if taken is not None:
            self._has_taken, self._runs = True, list(taken.runs)
        return taken is not None

    def _give_way(self, stopped: Sequence[RunState]) -> None:
        from submitit.core.utils import UncompletedJobError

        if any(state.error == f"stopped by {signal.SIGUSR2.name}" for state in stopped):
            try:
                signal.raise_signal(signal.SIGUSR2)
            except UncompletedJobError:
                for one in self._runs:
                    _fail(
                        Path(one["folder"]),
                        "reached its time limit more often than hydra.launcher.max_num_timeout allows",
                    )
                return
        time.sleep(_LONGEST_GRACE_SECONDS)

    def _spare_the_rest(self) -> None:
        """Of the chain: there is nothing left for it to do."""
        own = slurm_job_id()
        for sent in sent_jobs(self._first.parent).get(self._first.name, []):
            if own in sent.ids:
                cancel_jobs(sent.ids[sent.ids.index(own) + 1 :])


def chaining(sweep: str, length: int) -> Chained:
    """What sends a pack as a chain of so many jobs."""
    return lambda parcel: [PackJob(parcel.runs, parcel.code, sweep, (place, length)) for place in range(length)]


def _end(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp


def _check_code(copy: str | None) -> None:
    """Raises:
    InputError: Python imported this package from elsewhere than the copy that the job is to run from.
    """
    if copy is not None and not PACKAGE.is_relative_to(Path(copy).resolve()):
        path = os.environ.get("PYTHONPATH")
        raise InputError(
            "hydra.launcher.python", path, f"a Python that imports by PYTHONPATH: masked_sae is from {PACKAGE.parent}"
        )


def _has_ended(folder: str) -> bool:
    state = known_state(RunFolder(Path(folder)))
    return state is not None and state.status in ENDED


def _fail(path: Path, reason: str) -> None:
    try:
        end_run(RunFolder(path), "failed", reason)
    except HeldError as held:
        print(held, flush=True)  # and it may have more time
