"""Sweeps on SLURM: packs of members as submitit's arrays, followed through their folders and `squeue`.

submitit's own job objects are not asked how a job is: they need accounting (`sacct`), which many clusters lack, and do
not know of runs. A run's state is in its folder; that its job is gone is what `squeue` says.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masked_sae.bundled import command_name
from masked_sae.errors import InputError, notice
from masked_sae.runs.asked_end import forget_asked_end
from masked_sae.runs.carried import carried
from masked_sae.runs.folder import clear_run
from masked_sae.runs.former import take_over_former
from masked_sae.runs.lock import DEAD_AFTER_SECONDS, HeldError, hold
from masked_sae.runs.run import Run
from masked_sae.runs.state import ENDED, RunState, read_state, slurm_job_id, write_state
from masked_sae.runs.sweep_record import Member, forget_members, read_members
from masked_sae.sweeps.changes import StateChanges
from masked_sae.sweeps.code_copy import CodeCopy, code_of
from masked_sae.sweeps.job_end import why_job_ended
from masked_sae.sweeps.jobs import sent_jobs
from masked_sae.sweeps.local import begin_sweep, end_sweep, record_sweeps
from masked_sae.sweeps.pack_job import chaining
from masked_sae.sweeps.packs import fits_in_job, label_of, make_packs
from masked_sae.sweeps.slurm_queue import queued_jobs
from masked_sae.sweeps.waiting import Chained, Parcel, forget_waiting, is_waiting, send, send_waiting, waiting_runs
from masked_sae.training.done import is_complete, known_state
from masked_sae.training.memory import LEAST_D_IN, refuse_larger_than

_POLL_SECONDS = 2.0
_LAST_NEWS_SECONDS = 10.0


def submit_and_wait(
    runs: Sequence[Run],
    settings: Mapping[str, Any],
    command: Sequence[str] = (),
    launcher: str = "slurm",
    *,
    of_search: bool = False,
) -> None:
    """Submits the members that are not done; waits for all and prints how they ended, or returns if detached.

    Args:
        settings: of the launcher.
        command: what stood on the command line.
        launcher: that was chosen.
        of_search: as for `train_here`; those that are in the queue already are waited for too.

    Raises:
        InputError: SLURM takes no such jobs; the members that came to nothing are on no record.
    """
    sweep = runs[0].folder.path.parent
    settings = {**settings, **tasks_for(runs, settings)}
    _refuse_what_no_job_holds(runs, settings)
    take_over_former(runs)
    known = {member.folder.path for run in runs for member in read_members(run.folder.path.parent)}
    (record_sweeps if of_search else begin_sweep)(runs, command)
    chained = chaining(str(sweep.absolute()), int(settings.get("chain") or 1))
    try:
        waiting = wanting_training(runs)
        packs = _submit(waiting, settings, sweep, chained) if waiting else []
    except BaseException as error:
        for place in dict.fromkeys(run.folder.path.parent for run in runs):
            new = [run for run in runs if run.folder.path.parent == place and run.folder.path not in known]
            forget_members(place, [run.folder.run_id for run in new], command)
        if isinstance(error, InputError) and error.key == "hydra/launcher":
            raise InputError("hydra/launcher", launcher, error.valid) from error
        raise
    sent, unsent = _sent(waiting), waiting_runs(sweep)
    for pack in packs:
        first = pack[0].folder.path
        waits = first.absolute() in unsent
        print(f"{label_of(pack)}: {'waits for room in the queue' if waits else f'SLURM job {sent[first][0]}'}")
    if runs[0].config.detach:
        jobs = f"{len(packs)} {'job' if len(packs) == 1 else 'jobs'}"
        submitted = f"submitted {len(waiting)} of {len(runs)} runs in {jobs}"
        print(f"{submitted}; look with: {command_name('status')} {sweep}")
        if unsent:
            notice(f"no room in the queue for {len(unsent)} runs: jobs go on with these as they end")
        return
    _follow(waiting, sweep, chained)
    if of_search:
        _follow(_left_in_queue(runs), sweep, chained)
    else:
        end_sweep(runs)


def tasks_for(runs: Sequence[Run], settings: Mapping[str, Any]) -> dict[str, int]:
    """What the launcher is told of tasks: a job has one for each of the processes that train together.

    Raises:
        InputError: it was told otherwise, or not all runs have as many.
    """
    found: dict[str, int] = {}
    for name, key in (("tasks_per_node", "devices"), ("nodes", "nodes")):
        asked = {getattr(run.config.trainer, key) for run in runs}
        if len(asked) > 1:
            raise InputError(f"trainer.{key}", ",".join(map(str, sorted(asked))), "one number for all jobs of a sweep")
        (found[name],) = asked
        if settings.get(name) not in (None, found[name]):
            raise InputError(
                f"hydra.launcher.{name}", settings[name], f"null, or {found[name]} as trainer.{key} has it"
            )
    gpus = settings.get("gpus_per_node")
    if isinstance(gpus, int) and gpus < found["tasks_per_node"]:
        valid = f"at least {found['tasks_per_node']}: trainer.devices has a GPU each"
        raise InputError("hydra.launcher.gpus_per_node", gpus, valid)
    return found


def _left_in_queue(runs: Sequence[Run]) -> list[Run]:
    """Those that an earlier command sent."""
    sent = _sent(runs)
    return [run for run in runs if run.folder.path in sent and _state_of(run).status not in ENDED]


def _refuse_what_no_job_holds(runs: Sequence[Run], settings: Mapping[str, Any]) -> None:
    memory = settings.get("mem_gb")
    if isinstance(memory, (int, float)):
        for run in runs:
            tasks = run.config.trainer.devices
            whose = "a job has" if tasks == 1 else f"each of {tasks} tasks has its share of a job's"
            where = f"{whose} (hydra.launcher.mem_gb={memory:g})"
            refuse_larger_than(run.config, LEAST_D_IN, int(memory * 2**30) // tasks, where)


def wanting_training(runs: Sequence[Run]) -> list[Run]:
    """Those that are neither done and measured nor in somebody's hands; their state is then `created`."""
    left = [run for run in runs if run.config.force or not is_complete(run, known_state(run.folder))]
    jobs = _jobs_of(left)
    queued = queued_jobs() - {slurm_job_id()} if any(jobs.values()) else set[str]()
    return [run for run in left if _is_free(run, next((job for job in jobs[run.folder.path] if job in queued), None))]


def _jobs_of(runs: Sequence[Run]) -> dict[Path, list[str]]:
    """By its folder, the jobs that each was submitted in, or that its state names."""
    sent = _sent(runs)
    states = {run.folder.path: known_state(run.folder) for run in runs}
    return {
        path: [*sent.get(path, ()), *([state.job_id] if state is not None and state.job_id else [])]
        for path, state in states.items()
    }


def _is_free(run: Run, job: str | None) -> bool:
    """Whether nobody trains it or is about to."""
    folder = run.folder
    state = known_state(folder)
    if job is not None and (state is None or state.status not in ENDED):
        print(f"{run.label}: in the queue already, as SLURM job {job}")
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


def _submit(waiting: Sequence[Run], settings: Mapping[str, Any], sweep: Path, chained: Chained) -> list[list[Run]]:
    """Sends what there is room for, the rest is kept. Returns the packs."""
    try:
        copies = code_of(waiting)
        codes = {path: copy.code for path, copy in copies.items()}
        workers = settings.get("array_parallelism") or 1
        packs = make_packs(waiting, fits_in_job(settings), workers=workers, codes=codes)
        forget_waiting(sweep)
        send([_parcel(pack, copies.get(pack[0].folder.path)) for pack in packs], settings, sweep, chained)
    except InputError:
        for run in waiting:
            _forget_if_new(run)
        raise
    return packs


def _parcel(pack: Sequence[Run], copy: CodeCopy | None) -> Parcel:
    runs = [carried(run) for run in pack]
    return Parcel(runs, None, []) if copy is None else Parcel(runs, str(copy.path), copy.setup(Path.cwd()))


def _forget_if_new(run: Run) -> None:
    state = read_state(run.folder.state)
    if state is not None and state.status == "created" and not (state.job_id or run.folder.checkpoints.exists()):
        shutil.rmtree(run.folder.path)


def _follow(runs: Sequence[Run], sweep: Path, chained: Chained) -> None:
    """Returns once every job has left the queue; a run that its jobs left unfinished is marked as failed."""
    left = list(runs)
    changes = StateChanges()
    room, before = False, 0
    while left:
        if room and is_waiting(sweep):
            send_waiting(sweep, chained)
        unsent, sent = waiting_runs(sweep), _sent(left)
        queued = queued_jobs()  # after these, so that all that was sent is in it
        room, before = len(queued) != before, len(queued)
        changes.show(left)
        gone = [
            run
            for run in left
            if run.folder.path.absolute() not in unsent and not queued.intersection(sent.get(run.folder.path, ()))
        ]
        _close(gone)
        left = [run for run in left if run not in gone]
        if left:
            time.sleep(_POLL_SECONDS)


def _sent(runs: Sequence[Run]) -> dict[Path, tuple[str, ...]]:
    """By its folder, the jobs that each was last submitted in."""
    found: dict[Path, tuple[str, ...]] = {}
    for sweep in dict.fromkeys(run.folder.path.parent for run in runs):
        found |= {sweep / run_id: sent[-1].ids for run_id, sent in sent_jobs(sweep).items()}
    return found


def _close(runs: Sequence[Run]) -> None:
    deadline = time.monotonic() + _LAST_NEWS_SECONDS
    for member in runs:
        try:
            with hold(member.folder.lock, patience=2 * DEAD_AFTER_SECONDS):  # a job killed on its node left it locked
                while (state := _state_of(member)).status not in ENDED and time.monotonic() < deadline:
                    time.sleep(1.0)  # what a node wrote last may take a while to be seen here
                if state.status not in ENDED:
                    why = why_job_ended(member, state)
                    write_state(member.folder.state, state, status="failed", error=f"{why}; see its log in .submitit")
        except HeldError as held:
            print(held)


def _state_of(member: Member) -> RunState:
    return read_state(member.folder.state) or RunState(member.folder.run_id, "created")
