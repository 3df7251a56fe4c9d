"""Runs on this machine: one alone, or the members of a sweep, pack after pack.

A member that fails is named and does not stop the others.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from masked_sae.activations.lm_device import find_lm_device
from masked_sae.command_line import FAILED, INTERRUPTED
from masked_sae.config import RunConfig, all_settings
from masked_sae.errors import InputError, notice
from masked_sae.runs.asked_end import forget_asked_end
from masked_sae.runs.code import refuse_other_code
from masked_sae.runs.former import take_over_former
from masked_sae.runs.lock import HeldError
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.sweep_record import read_members, record_members
from masked_sae.settings import dotted, without_neutral
from masked_sae.sweeps.claims import what_a_claim_lacks
from masked_sae.sweeps.left_over import tell_left_over
from masked_sae.sweeps.packs import fits_here, label_of, make_packs, train_members
from masked_sae.sweeps.summary import find_state, print_members, status_of
from masked_sae.training.assemble import find_device
from masked_sae.training.done import is_left_out
from masked_sae.training.memory import LEAST_D_IN, refuse_too_large
from masked_sae.training.optimizers import refuse_unusable
from masked_sae.training.train_pack import train_pack

_SHOWN_AFTER_SECONDS = 1.0


def train_alone(config: RunConfig) -> None:
    """Trains one run and prints how it ended; one that was stopped by a signal ends the command with an exit code."""
    if config.detach:
        raise InputError("detach", True, "false, unless a sweep goes to SLURM (-m, hydra/launcher=slurm)")
    _refuse_other_machine(config)
    run = make_run(config, {})
    take_over_former([run])
    if not config.force:
        refuse_other_code(run.folder, config.code)
    forget_asked_end(run.folder)
    (ended,) = train_pack([run])
    if isinstance(ended.error, HeldError):
        print(ended.error)
        return
    if ended.error is not None:
        raise ended.error
    print_members([run])
    if ended.state is not None and ended.state.status != "done":
        sys.exit(INTERRUPTED)


def make_runs(jobs: Sequence[tuple[RunConfig, Mapping[str, str]]]) -> list[Run]:
    """Names every member before any is trained; members that are the same run are one, and this is said.

    Raises:
        InputError: a member's configuration cannot work.
    """
    return distinct(runs_of_jobs(jobs))


def runs_of_jobs(jobs: Sequence[tuple[RunConfig, Mapping[str, str]]]) -> list[Run]:
    """As `make_runs`, the run of each job: of jobs that are the same run, one and the same."""
    made: dict[str, Run] = {}
    found: list[Run] = []
    again: list[Run] = []
    for config, swept in tqdm(jobs, desc="naming runs", leave=False, delay=_SHOWN_AFTER_SECONDS):
        run = make_run(config, swept)
        found.append(made.setdefault(json.dumps(without_neutral(config), sort_keys=True), run))
        if found[-1] is not run:
            again.append(run)
    if again:
        which = ", ".join(dict.fromkeys(run.label for run in again))
        notice(f"{len(made)} runs, not {len(jobs)}: the same as another are {which}")
    return found


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Each run once, in order."""
    return list({id(run): run for run in runs}.values())


def train_here(runs: Sequence[Run], command: Sequence[str] = (), *, of_search: bool = False) -> None:
    """Trains the members, pack after pack, prints how each ended, and exits with an error if one failed.

    Args:
        command: what stood on the command line.
        of_search: they are some of a search's: it goes on, whatever became of them, and says so at its own end.
    """
    waiting = begin_here(runs, command, of_search=of_search)
    reached = len(runs) - len(waiting)
    for pack in make_packs(waiting, fits_here):
        numbers = f"{reached + 1}-{reached + len(pack)}" if len(pack) > 1 else f"{reached + 1}"
        print(f"[{numbers}/{len(runs)}] {label_of(pack)}", flush=True)
        states = train_members(pack)
        if any(state is not None and state.status == "preempted" for state in states):
            print_members(runs)
            sys.exit(INTERRUPTED)
        reached += len(pack)
    if not of_search:
        end_sweep(runs)


def begin_here(runs: Sequence[Run], command: Sequence[str], *, of_search: bool = False) -> list[Run]:
    """Refuses what this machine cannot do, puts the members on record, and says how many are done; the others."""
    if runs[0].config.detach:
        raise InputError("detach", True, "false, unless the sweep goes to SLURM (hydra/launcher=slurm)")
    for run in runs:
        _refuse_other_machine(run.config)
    take_over_former(runs)
    (record_sweeps if of_search else begin_sweep)(runs, command)
    waiting = [run for run in runs if not is_left_out(run)]
    for run in waiting:
        if not run.config.force:
            refuse_other_code(run.folder, run.config.code)
    for run in waiting:
        forget_asked_end(run.folder)
    if len(waiting) < len(runs) and not of_search:
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are done", flush=True)
    return waiting


def begin_sweep(runs: Sequence[Run], command: Sequence[str]) -> None:
    """Puts the members on record, and says what a sweep of these cannot show."""
    sweeps = _by_sweep(runs)
    for sweep, members in sweeps.items():
        others = {member.folder.run_id for member in read_members(sweep)} - {run.folder.run_id for run in members}
        lacking = [] if others or len(members) < 2 else what_a_claim_lacks([run.config for run in members])
        if lacking:
            notice(f"this sweep can show no effect of masking: {'; '.join(lacking)}")
        tell_left_over(sweep, members, prune=members[0].config.prune)
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


def end_sweep(runs: Sequence[Run]) -> None:
    """Prints what became of every member; exits with an error if one failed, as interrupted if one was cancelled."""
    print_members(runs)
    statuses = [status_of(find_state(run.folder)) for run in runs]
    failed = sum(status in ("failed", "damaged") for status in statuses)
    if failed:
        print(f"error: {failed} of {len(runs)} runs failed", file=sys.stderr)
        sys.exit(FAILED)
    if "cancelled" in statuses:
        sys.exit(INTERRUPTED)


def _refuse_other_machine(config: RunConfig) -> None:
    """Raises:
    InputError: the run needs a device or a library that is not here, or more memory.
    """
    device = find_device(config.trainer.device)
    find_lm_device(config.lm, device)
    refuse_too_large(config, LEAST_D_IN, device)
    refuse_unusable(config.optim.name, device)
