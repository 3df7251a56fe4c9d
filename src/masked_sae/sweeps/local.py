"""Runs on this machine: one alone, or the members of a sweep one after another.

A member that fails is named and does not stop the others.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence

from masked_sae.command_line import FAILED, INTERRUPTED, explain
from masked_sae.config import RunConfig, all_settings
from masked_sae.errors import InputError, one_line
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import HeldError
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import RunState, read_state, write_state
from masked_sae.runs.sweep_record import record_members
from masked_sae.settings import dotted
from masked_sae.sweeps.summary import print_members
from masked_sae.tracking.sweep import log_sweep
from masked_sae.training.train_run import train_run


def train_alone(config: RunConfig) -> None:
    """Trains one run and prints how it ended; one that was stopped by a signal ends the command with an exit code."""
    if config.detach:
        raise InputError("detach", True, "false, unless a sweep goes to SLURM (-m, hydra/launcher=slurm)")
    run = make_run(config, {})
    try:
        state = train_run(run)
    except HeldError as held:
        print(held)
        return
    print_members([run])
    if state.status == "preempted":
        sys.exit(INTERRUPTED)


def make_runs(jobs: Sequence[tuple[RunConfig, Mapping[str, str]]]) -> list[Run]:
    """Names every member before any is trained.

    Raises:
        InputError: a member's configuration cannot work.
    """
    return [make_run(config, swept) for config, swept in jobs]


def train_here(runs: Sequence[Run], command: Sequence[str] = ()) -> None:
    """Trains the members one after another, prints how each ended, and exits with an error if one failed.

    Args:
        command: what stood on the command line.
    """
    if runs[0].config.detach:
        raise InputError("detach", True, "false, unless the sweep goes to SLURM (hydra/launcher=slurm)")
    record_sweeps(runs, command)
    for number, run in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {run.label}", flush=True)
        state = train_member(run)
        if state is not None and state.status == "preempted":
            print_members(runs)
            sys.exit(INTERRUPTED)
    end_sweep(runs)


def record_sweeps(runs: Sequence[Run], command: Sequence[str]) -> None:
    """Notes the members in the folder of their sweep; a multirun over `name` or `experiment` has several."""
    labels = {key: label for run in runs for key, label in _labels(run).items()}
    for sweep in dict.fromkeys(run.folder.path.parent for run in runs):
        record_members(sweep, [run for run in runs if run.folder.path.parent == sweep], command, labels)


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
        state = read_state(folder.state) or RunState(folder.run_id, "failed")
        return write_state(folder.state, state, status="failed", error=explain(error) or one_line(error))


def _written(folder: RunFolder) -> int | None:
    """When its results were, in nanoseconds."""
    return folder.results.stat().st_mtime_ns if folder.results.exists() else None


def end_sweep(runs: Sequence[Run]) -> None:
    """Prints what became of every member; exits with an error if one failed."""
    print_members(runs)
    states = [read_state(run.folder.state) for run in runs]
    failed = sum(state is not None and state.status == "failed" for state in states)
    if failed:
        print(f"error: {failed} of {len(runs)} runs failed", file=sys.stderr)
        sys.exit(FAILED)
