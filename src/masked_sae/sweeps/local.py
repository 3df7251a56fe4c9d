"""Runs from configurations: one alone, or the members of a sweep one after another.

A member that fails is named and does not stop the others.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from masked_sae.commands import FAILED, INTERRUPTED, explain
from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import HeldError
from masked_sae.runs.members import Member, record_members
from masked_sae.runs.state import RunState, read_state, write_state
from masked_sae.sweeps.summary import print_members
from masked_sae.tracking.sweep import log_sweep
from masked_sae.training.preparation import identify
from masked_sae.training.run import one_line, train_run


@dataclass(frozen=True)
class Job:
    """A member of a sweep and how to train it."""

    config: RunConfig
    member: Member


def train_alone(config: RunConfig) -> None:
    """Trains one run and prints how it ended; one that was stopped by a signal ends the command with an exit code."""
    if config.detach:
        raise InputError("detach", True, "false, unless a sweep goes to SLURM (-m, hydra/launcher=slurm)")
    member = Member(identify(config, {}).folder, {})
    try:
        state = train_run(config)
    except HeldError as held:
        print(held)
        return
    print_members([member])
    if state.status == "preempted":
        sys.exit(INTERRUPTED)


def identify_all(jobs: Sequence[tuple[RunConfig, Mapping[str, str]]]) -> list[Job]:
    """Names every member before any is trained.

    Raises:
        InputError: a member's configuration cannot work.
    """
    return [Job(config, Member(identify(config, swept).folder, swept)) for config, swept in jobs]


def train_here(jobs: Sequence[Job]) -> None:
    """Trains the members one after another, prints how each ended, and exits with an error if one failed."""
    members = [job.member for job in jobs]
    if jobs[0].config.detach:
        raise InputError("detach", True, "false, unless the sweep goes to SLURM (hydra/launcher=slurm)")
    record_sweeps(members)
    for number, job in enumerate(jobs, start=1):
        print(f"[{number}/{len(jobs)}] {job.member.label}", flush=True)
        state = train_member(job)
        if state is not None and state.status == "preempted":
            print_members(members)
            sys.exit(INTERRUPTED)
    end_sweep(members)


def record_sweeps(members: Sequence[Member]) -> None:
    """Notes the members in the folder of their sweep; a multirun over `name` or `experiment` has several."""
    for sweep in dict.fromkeys(member.folder.path.parent for member in members):
        record_members(sweep, [member for member in members if member.folder.path.parent == sweep])


def train_member(job: Job, patience: float = 0.0) -> RunState | None:
    """Trains one member; whatever befalls it ends in its state. None where another process is at it."""
    folder = job.member.folder
    before = _written(folder)
    try:
        state = train_run(job.config, job.member.swept, patience)
        if _written(folder) != before:
            log_sweep(folder.path.parent, job.config.logger.wandb)
        return state
    except HeldError as held:
        print(held, flush=True)
        return None
    except Exception as error:  # noqa: BLE001 - whatever befalls one member, the others go on
        if explain(error) is None:
            traceback.print_exc()
        state = read_state(folder.state) or RunState(folder.run_id, "failed")
        return write_state(folder.state, state, status="failed", error=explain(error) or one_line(error))


def _written(folder: RunFolder) -> int | None:
    """When its results were, in nanoseconds."""
    return folder.results.stat().st_mtime_ns if folder.results.exists() else None


def end_sweep(members: Sequence[Member]) -> None:
    """Prints what became of every member; exits with an error if one failed."""
    print_members(members)
    states = [read_state(member.folder.state) for member in members]
    failed = sum(state is not None and state.status == "failed" for state in states)
    if failed:
        print(f"error: {failed} of {len(members)} runs failed", file=sys.stderr)
        sys.exit(FAILED)
