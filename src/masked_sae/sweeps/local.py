"""Runs on this machine: one alone, or the members of a sweep one after another.

A member that fails is named and does not stop the others.
"""

import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from masked_sae.command_line import FAILED, INTERRUPTED, explain
from masked_sae.config import RunConfig, all_settings
from masked_sae.errors import InputError, notice, one_line, printable
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.former import take_over_former
from masked_sae.runs.lock import HeldError, is_anothers
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import RunState, write_state
from masked_sae.runs.sweep_record import read_members, record_members
from masked_sae.settings import dotted, without_neutral
from masked_sae.sweeps.claims import what_a_claim_lacks
from masked_sae.sweeps.summary import find_state, print_members, status_of
from masked_sae.tracking.sweep import log_sweep
from masked_sae.training.assemble import find_device
from masked_sae.training.memory import LEAST_D_IN, refuse_too_large
from masked_sae.training.train_run import train_run

_SHOWN_AFTER_SECONDS = 1.0


def train_alone(config: RunConfig) -> None:
    """Trains one run and prints how it ended; one that was stopped by a signal ends the command with an exit code."""
    if config.detach:
        raise InputError("detach", True, "false, unless a sweep goes to SLURM (-m, hydra/launcher=slurm)")
    refuse_too_large(config, LEAST_D_IN, find_device(config.trainer.device))
    run = make_run(config, {})
    try:
        take_over_former([run])
        state = train_run(run)
    except HeldError as held:
        print(held)
        return
    print_members([run])
    if state.status == "preempted":
        sys.exit(INTERRUPTED)


def make_runs(jobs: Sequence[tuple[RunConfig, Mapping[str, str]]]) -> list[Run]:
    """Names every member before any is trained; members that are the same run are one, and this is said.

    Raises:
        InputError: a member's configuration cannot work.
    """
    made: dict[str, Run] = {}
    again: list[Run] = []
    for config, swept in tqdm(jobs, desc="naming runs", leave=False, delay=_SHOWN_AFTER_SECONDS):
        run = make_run(config, swept)
        if made.setdefault(json.dumps(without_neutral(config), sort_keys=True), run) is not run:
            again.append(run)
    if again:
        which = ", ".join(dict.fromkeys(run.label for run in again))
        notice(f"{len(made)} runs, not {len(jobs)}: the same as another are {which}")
    return list(made.values())


def train_here(runs: Sequence[Run], command: Sequence[str] = ()) -> None:
    """Trains the members one after another, prints how each ended, and exits with an error if one failed.

    Args:
        command: what stood on the command line.
    """
    if runs[0].config.detach:
        raise InputError("detach", True, "false, unless the sweep goes to SLURM (hydra/launcher=slurm)")
    for run in runs:
        refuse_too_large(run.config, LEAST_D_IN, find_device(run.config.trainer.device))
    take_over_former(runs)
    begin_sweep(runs, command)
    for number, run in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {printable(run.label)}", flush=True)
        state = train_member(run)
        if state is not None and state.status == "preempted":
            print_members(runs)
            sys.exit(INTERRUPTED)
    end_sweep(runs)


def begin_sweep(runs: Sequence[Run], command: Sequence[str]) -> None:
    """Puts the members on record, and says what a sweep of these cannot show."""
    sweeps = _by_sweep(runs)
    for sweep, members in sweeps.items():
        others = {member.folder.run_id for member in read_members(sweep)} - {run.folder.run_id for run in members}
        lacking = [] if others or len(members) < 2 else what_a_claim_lacks([run.config for run in members])
        if lacking:
            notice(f"this sweep can show no effect of masking: {'; '.join(lacking)}")
    record_sweeps(runs, command)


def record_sweeps(runs: Sequence[Run], command: Sequence[str]) -> None:
    """Notes the members in the folder of their sweep; a multirun over `name` or `experiment` has several."""
    labels = {key: label for run in runs for key, label in _labels(run).items()}
    for sweep, members in _by_sweep(runs).items():
        record_members(sweep, members, command, labels)


def _by_sweep(runs: Sequence[Run]) -> dict[Path, list[Run]]:
    sweeps: dict[Path, list[Run]] = {}
    for run in runs:
        sweeps.setdefault(run.folder.path.parent, []).append(run)
    return sweeps


def _labels(run: Run) -> dict[str, str]:
    """What tables call the keys that the run's sweep varies, where it is not their last part."""
    known = all_settings() | dotted(type(run.config.sae), "sae.")
    for name, mask in run.config.mask.items():
        known |= dotted(type(mask), f"mask.{name}.")
    return {key: known[key]["label"] for key in run.swept if known.get(key, {}).get("label")}


def train_member(run: Run, patience: float = 0.0) -> RunState | None:
    """Trains one member; whatever befalls it ends in its state. None where another process is at it."""
    folder = run.folder
    before = _written(folder)
    try:
        state = train_run(run, patience)
        if _written(folder) != before:
            log_sweep(folder.path.parent, run.config.logger.wandb)
        return state
    except HeldError as held:
        print(held, flush=True)
        return None
    except Exception as error:  # noqa: BLE001 - whatever befalls one member, the others go on
        if explain(error) is None:
            traceback.print_exc()
        if is_anothers(folder.lock):
            return None  # who began anew where the folder was deleted
        state = find_state(folder)
        begun = state if isinstance(state, RunState) else RunState(folder.run_id, "failed")
        return write_state(folder.state, begun, status="failed", error=explain(error) or one_line(error))


def _written(folder: RunFolder) -> int | None:
    """When its results were, in nanoseconds."""
    return folder.results.stat().st_mtime_ns if folder.results.exists() else None


def end_sweep(runs: Sequence[Run]) -> None:
    """Prints what became of every member; exits with an error if one failed."""
    print_members(runs)
    failed = sum(status_of(find_state(run.folder)) in ("failed", "damaged") for run in runs)
    if failed:
        print(f"error: {failed} of {len(runs)} runs failed", file=sys.stderr)
        sys.exit(FAILED)
