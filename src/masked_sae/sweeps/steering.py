"""Members of a sweep, named and ended by hand, wherever they are trained: here, or in jobs that others share."""

import time
from collections.abc import Sequence
from pathlib import Path

from masked_sae.errors import InputError, notice
from masked_sae.runs.asked_end import ask_to_end, asked_end
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import DEAD_AFTER_SECONDS, HeldError
from masked_sae.runs.state import ENDED
from masked_sae.runs.sweep_record import Member, read_members
from masked_sae.sweeps.ending import end_run
from masked_sae.sweeps.jobs import sent_jobs
from masked_sae.sweeps.slurm_queue import cancel_jobs, queued_jobs
from masked_sae.training.done import known_state

ALL = "all"
_CHECKPOINT_SECONDS = 30.0  # the time for a step and a checkpoint, before a job is ended from outside
_FEW = 4


def find_members(sweep: Path, key: str, named: str) -> list[Member]:
    """The member of this id, or the only one with this in its id or its label; or all.

    Args:
        key: of the command, that names it.

    Raises:
        InputError: there is none, or several.
    """
    members = read_members(sweep)
    if named == ALL:
        return members
    exact = [member for member in members if member.folder.run_id == named]
    found = exact or [member for member in members if named in member.folder.run_id or named in member.label]
    if len(found) != 1:
        ids = [member.folder.run_id for member in found or members]
        some = ", ".join(ids[:_FEW]) + (f" and {len(ids) - _FEW} more" if len(ids) > _FEW else "")
        how_many = f"of which {len(found)} have that" if found else "none of which has that"
        raise InputError(key, named, f"a run's id, or a part that one run alone has ({how_many}: {some})")
    return found


def cancel_members(sweep: Path, members: Sequence[Member]) -> None:
    """Ends members with a checkpoint of each, and jobs in which no other member is left; says how it went."""
    left = [member for member in members if _status(member.folder) not in ENDED]
    for member in left:
        member.folder.path.mkdir(exist_ok=True)
        ask_to_end(member.folder, "cancelled", "by hand")
    _end_jobs(sweep, pending=True)  # before they begin
    busy = _wait_for(left, time.monotonic() + _CHECKPOINT_SECONDS)
    ended = _end_jobs(sweep, pending=False)
    busy = _wait_for(busy, time.monotonic() + 2 * DEAD_AFTER_SECONDS if ended else time.monotonic())
    for member in left:
        status = "asked to end; it is not at a step now" if member in busy else _status(member.folder)
        print(f"{member.label}: {status}")
    if not left:
        print("nothing to cancel: all have ended")


def _wait_for(members: Sequence[Member], deadline: float) -> list[Member]:
    """Has each be `cancelled` that nobody works at, and returns those at which somebody still is."""
    busy = [member for member in members if not _close(member)]
    while busy and time.monotonic() < deadline:
        time.sleep(0.5)
        busy = [member for member in busy if not _close(member)]
    return busy


def _close(member: Member) -> bool:
    try:
        end_run(member.folder, "cancelled", "by hand")
    except HeldError:
        return False
    return True


def _end_jobs(sweep: Path, *, pending: bool) -> bool:
    """Ends jobs of which no member is left to train; whether there were any.

    Args:
        pending: those alone that have not begun.
    """
    packs: dict[tuple[str, ...], list[str]] = {}
    for run, sent in sent_jobs(sweep).items():
        for one in sent:
            packs.setdefault(one.ids, []).append(run)
    over = [ids for ids, runs in packs.items() if all(_is_over(RunFolder(sweep / run)) for run in runs)]
    queued = queued_jobs(pending=pending) if over else set[str]()
    jobs = [job for ids in over for job in ids if job in queued]
    if trouble := cancel_jobs(jobs):
        notice(f"scancel: {trouble}")
    return bool(jobs)


def _is_over(folder: RunFolder) -> bool:
    return asked_end(folder) is not None or _status(folder) in ENDED


def _status(folder: RunFolder) -> str:
    state = known_state(folder)
    return "created" if state is None else state.status
