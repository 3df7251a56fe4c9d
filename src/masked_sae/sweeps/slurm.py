"""Sweeps on SLURM: packs of members as one submitit array, followed through their folders and `squeue`.

submitit's own job objects are not asked how a job is: they need accounting (`sacct`), which many clusters lack, and do
not know of runs. A run's state is in its folder; that its job is gone is what `squeue` says.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from masked_sae.errors import InputError
from masked_sae.runs.asked_end import forget_asked_end
from masked_sae.runs.attempts import usable_cpus
from masked_sae.runs.folder import clear_run
from masked_sae.runs.former import take_over_former
from masked_sae.runs.lock import DEAD_AFTER_SECONDS, HeldError, hold
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState, read_state, slurm_job_id, write_state
from masked_sae.runs.sweep_record import Member, forget_members, read_members
from masked_sae.sweeps.local import begin_sweep, end_sweep
from masked_sae.sweeps.packs import fits_in_job, label_of, make_packs, train_members
from masked_sae.training.done import is_complete, known_state
from masked_sae.training.memory import LEAST_D_IN, refuse_larger_than

_POLL_SECONDS = 2.0
_LAST_NEWS_SECONDS = 10.0
_SQUEUE_ATTEMPTS = 8
_LONGEST_GRACE_SECONDS = 3600.0
_ENDED = ("done", "failed")
# From SLURM 22.05 on srun asks for one CPU, whatever its job has, unless this tells it.
_ALL_CPUS = '[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'
# The keys that submitit takes for every kind of cluster; all others are SLURM's.
_COMMON = frozenset("timeout_min cpus_per_task gpus_per_node tasks_per_node mem_gb nodes name stderr_to_stdout".split())


class PackJob:
    """What runs on the node: the members of a pack, each from its checkpoint if it has one.

    On submitit's signal (preemption, or the time limit drawing near) training writes a checkpoint of each member at the
    next step's end and this job hands the signal on to submitit's handler, which requeues it. On SIGTERM alone it
    writes them and waits for the end: SLURM requeues a preempted job by itself, but not one that leaves first.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = list(runs)

    def __call__(self) -> str:
        print(f"on {socket.gethostname()}, CPUs {usable_cpus()}", flush=True)
        left = [run for run in self._runs if not _has_failed(run)]
        states = train_members(left or self._runs, patience=3 * DEAD_AFTER_SECONDS)
        stopped = [state for state in states if state is not None and state.status == "preempted"]
        if stopped:
            self._give_way(stopped)
        return ", ".join("held by another process" if state is None else state.status for state in states)

    def checkpoint(self) -> Any:
        """What submitit queues again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _give_way(self, stopped: Sequence[RunState]) -> None:
        from submitit.core.utils import UncompletedJobError

        if any(state.error == f"stopped by {signal.SIGUSR2.name}" for state in stopped):
            try:
                signal.raise_signal(signal.SIGUSR2)
            except UncompletedJobError:
                for run in self._runs:
                    _fail(run, "reached its time limit more often than hydra.launcher.max_num_timeout allows")
                return
        time.sleep(_LONGEST_GRACE_SECONDS)


def _has_failed(run: Run) -> bool:
    """In this job, before it was requeued: a job is submitted with members that are `created`."""
    state = known_state(run.folder)
    return state is not None and state.status == "failed"


def _fail(run: Run, reason: str) -> None:
    try:
        with hold(run.folder.lock):
            state = _state_of(run)
            if state.status not in _ENDED:
                write_state(run.folder.state, state, status="failed", error=reason)
    except HeldError as held:
        print(held, flush=True)  # and it may have more time


def submit_and_wait(
    runs: Sequence[Run], settings: Mapping[str, Any], command: Sequence[str] = (), launcher: str = "slurm"
) -> None:
    """Submits the members that are not done; waits for all and prints how they ended, or returns if detached.

    Args:
        settings: of the launcher.
        command: what stood on the command line.
        launcher: that was chosen.

    Raises:
        InputError: SLURM takes no such jobs; the members that came to nothing are on no record.
    """
    sweep = runs[0].folder.path.parent
    _refuse_what_no_job_holds(runs, settings)
    take_over_former(runs)
    known = {member.folder.path for run in runs for member in read_members(run.folder.path.parent)}
    begin_sweep(runs, command)
    try:
        waiting = [run for run in runs if wants_training(run)]
        packs = make_packs(waiting, fits_in_job(settings), workers=settings.get("array_parallelism") or 1)
        ids = _submit(packs, settings) if packs else []
    except BaseException as error:
        for place in dict.fromkeys(run.folder.path.parent for run in runs):
            new = [run for run in runs if run.folder.path.parent == place and run.folder.path not in known]
            forget_members(place, [run.folder.run_id for run in new], command)
        if isinstance(error, InputError) and error.key == "hydra/launcher":
            raise InputError("hydra/launcher", launcher, error.valid) from error
        raise
    for pack, job_id in zip(packs, ids, strict=True):
        print(f"{label_of(pack)}: SLURM job {job_id}")
    if runs[0].config.detach:
        submitted = (
            f"submitted {len(waiting)} of {len(runs)} runs in {len(packs)} {'job' if len(packs) == 1 else 'jobs'}"
        )
        print(f"{submitted}; look with: python -m src.status {sweep}")
        return
    _follow(packs, ids)
    end_sweep(runs)


def _refuse_what_no_job_holds(runs: Sequence[Run], settings: Mapping[str, Any]) -> None:
    memory = settings.get("mem_gb")
    if isinstance(memory, (int, float)):
        for run in runs:
            refuse_larger_than(
                run.config, LEAST_D_IN, int(memory * 2**30), f"a job has (hydra.launcher.mem_gb={memory:g})"
            )


def wants_training(run: Run) -> bool:
    """Whether the member is neither done and measured nor in somebody's hands."""
    folder = run.folder
    state = known_state(folder)
    if is_complete(run, state) and not run.config.force:
        return False
    if state is not None and state.job_id not in (None, slurm_job_id()) and queued_jobs([str(state.job_id)]):
        print(f"{run.label}: in the queue already, as SLURM job {state.job_id}")
        return False
    try:
        with hold(folder.lock):
            if run.config.force:  # here and now, not once more whenever the job is requeued
                clear_run(folder)
                state = None
            forget_asked_end(folder)
            new = state or RunState(folder.run_id, "created")
            write_state(folder.state, new, status="created", error=None, job_id=None)
    except HeldError as held:
        print(held)
        return False
    return True


def _submit(packs: Sequence[Sequence[Run]], settings: Mapping[str, Any]) -> list[str]:
    import submitit
    from submitit.core.utils import FailedJobError

    told = {key: value for key, value in settings.items() if key != "array_parallelism" or value is not None}
    told["setup"] = [_ALL_CPUS, *(told.get("setup") or [])]
    own = {"submitit_folder", "max_num_timeout", "python"}
    try:
        executor = submitit.AutoExecutor(
            settings["submitit_folder"],
            cluster="slurm",
            slurm_max_num_timeout=settings["max_num_timeout"],
            slurm_python=settings.get("python"),
        )
        executor.update_parameters(
            **{key if key in _COMMON else f"slurm_{key}": told[key] for key in told if key not in own}
        )
        with _outside_any_job(), executor.batch():
            submitted = [executor.submit(PackJob([_unforced(run) for run in pack])) for pack in packs]
    except (RuntimeError, FailedJobError, NameError, TypeError, ValueError, AssertionError) as error:
        for pack in packs:
            for run in pack:
                _forget_if_new(run)
        valid = f"a cluster that takes the job ({' '.join(str(error).split())})"
        raise InputError("hydra/launcher", "slurm", valid) from error
    for pack, slurm_job in zip(packs, submitted, strict=True):
        for run in pack:
            state = read_state(run.folder.state)
            if state is not None and state.status == "created":  # a quick job may have gone further by now
                write_state(run.folder.state, state, job_id=slurm_job.job_id)
    return [slurm_job.job_id for slurm_job in submitted]


@contextmanager
def _outside_any_job() -> Generator[None]:
    """Within a job or an interactive session: without what SLURM told of it, which would be taken for what is asked
    for. What the user set for sbatch stays, and where the cluster's configuration is.
    """
    import submitit

    kept = {key: value for key, value in os.environ.items() if key == "SLURM_CONF" or key.startswith("SBATCH_")}
    with submitit.helpers.clean_env():
        os.environ.update(kept)
        yield


def _unforced(run: Run) -> Run:
    return replace(run, config=replace(run.config, force=False))


def _forget_if_new(member: Member) -> None:
    state = read_state(member.folder.state)
    if state is not None and state.status == "created" and not member.folder.checkpoints.exists():
        shutil.rmtree(member.folder.path)


def _follow(packs: Sequence[Sequence[Member]], ids: Sequence[str]) -> None:
    """Returns once every job has left the queue; a run that its job left unfinished is marked as failed."""
    open_jobs = dict(zip(ids, packs, strict=True))
    shown: dict[Path, str] = {}
    while open_jobs:
        queued = queued_jobs(list(open_jobs))
        for job_id, pack in list(open_jobs.items()):
            for member in pack:
                _show_change(member, shown)
            if job_id not in queued:
                del open_jobs[job_id]
                _close(pack, job_id)
        if open_jobs:
            time.sleep(_POLL_SECONDS)


def _show_change(member: Member, shown: dict[Path, str]) -> None:
    state = read_state(member.folder.state)
    status = "missing" if state is None else state.status
    if shown.get(member.folder.path) != status:
        shown[member.folder.path] = status
        print(f"{time.strftime('%H:%M:%S')} {member.label}: {status}", flush=True)


def _close(pack: Sequence[Member], job_id: str) -> None:
    deadline = time.monotonic() + _LAST_NEWS_SECONDS
    for member in pack:
        try:
            with hold(member.folder.lock, patience=2 * DEAD_AFTER_SECONDS):  # a job killed on its node left it locked
                while (state := _state_of(member)).status not in _ENDED and time.monotonic() < deadline:
                    time.sleep(1.0)  # what a node wrote last may take a while to be seen here
                if state.status not in _ENDED:
                    why = f"SLURM job {job_id} ended before the run did (it was {state.status})"
                    write_state(member.folder.state, state, status="failed", error=f"{why}; see its log in .submitit")
        except HeldError as held:
            print(held)


def _state_of(member: Member) -> RunState:
    return read_state(member.folder.state) or RunState(member.folder.run_id, "created")


def queued_jobs(ids: Sequence[str]) -> set[str]:
    """Those of the jobs that are pending, running or about to end.

    Raises:
        InputError: there is no SLURM here.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i", "--me"]
    for attempt in range(_SQUEUE_ATTEMPTS):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except FileNotFoundError:
            raise InputError("hydra/launcher", "slurm", "a machine with SLURM's commands (no squeue here)") from None
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"squeue failed, trying again: {getattr(error, 'stderr', '') or error}", file=sys.stderr)
            time.sleep(2.0**attempt)
        else:
            return set(done.stdout.split()).intersection(ids)
    raise InputError("hydra/launcher", "slurm", "a SLURM controller that answers squeue")
