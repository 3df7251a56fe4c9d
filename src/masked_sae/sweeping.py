"""The members of a sweep, trained; one that fails is named and does not stop the others."""

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from masked_sae.commands import FAILED, INTERRUPTED, explain, typed_config
from masked_sae.config import RunConfig, check
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.table import Member, print_members
from masked_sae.training import train_run


def train_here(jobs: Sequence[tuple[DictConfig, Mapping[str, str]]]) -> list[Member]:
    """Trains them one after another.

    Raises:
        InputError: a member's configuration cannot work; then none was started.
    """
    configs = [typed_config(config) for config, _ in jobs]
    for config in configs:
        check(config)
    members: list[Member] = []
    for number, (config, (_, swept)) in enumerate(zip(configs, jobs, strict=True), start=1):
        label = ", ".join(f"{key}={value}" for key, value in swept.items())
        print(f"[{number}/{len(jobs)}] {label}", flush=True)
        member = _train_member(config, swept)
        members.append(member)
        if member.status == "preempted":
            print_members(members)
            sys.exit(INTERRUPTED)
    return members


def train_alone(config: RunConfig) -> None:
    """Trains one run and prints how it ended; a run that was stopped ends the command with that exit code."""
    state = train_run(config)
    print_members([Member({}, _folder(config, state.run_id), state.status, state.error)])
    if state.status == "preempted":
        sys.exit(INTERRUPTED)


def _folder(config: RunConfig, run_id: str) -> RunFolder:
    return RunFolder(Path(config.output_dir) / config.name / run_id)


def _train_member(config: RunConfig, swept: Mapping[str, str]) -> Member:
    try:
        state = train_run(config, swept)
    except Exception as error:  # noqa: BLE001 - whatever befalls one member, the others go on
        line = explain(error)
        if line is None:
            traceback.print_exc()
            line = f"{type(error).__name__}: {error}"
        return Member(swept, None, "failed", line)
    return Member(swept, _folder(config, state.run_id), state.status, state.error)


def end_sweep(members: Sequence[Member]) -> None:
    """Prints what became of every member; exits with an error if one failed."""
    print_members(members)
    failed = sum(member.status == "failed" for member in members)
    if failed:
        print(f"error: {failed} of {len(members)} runs failed", file=sys.stderr)
        sys.exit(FAILED)
