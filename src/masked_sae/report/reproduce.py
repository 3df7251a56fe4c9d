"""How to get the same runs again: commands, versions, commit."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from masked_sae.report.runs_table import Runs
from masked_sae.runs.attempts import Software, find_software, read_attempts
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.identity import HOW, is_part_of


@dataclass(frozen=True)
class MadeWith:
    """Attributes:
    runs: how many were trained so, in whole or in part.
    device: the CPU's or GPU's name.
    """

    runs: int
    software: Software
    device: str


@dataclass(frozen=True)
class Reproduction:
    """Attributes:
    sweeps: the commands that train them, as they were given; none where that is not on record.
    run: the command that trains one of them again, from its own configuration.
    report: the command that writes this report.
    trained: with what the runs were trained, as far as they say; most runs first. Resumed runs may be in several.
    unrecorded: runs with results that do not say.
    written: with what the report was written.
    """

    sweeps: tuple[str, ...]
    run: str
    report: str
    trained: tuple[MadeWith, ...]
    unrecorded: int
    written: Software


def reproduce(runs: Runs, sweeps: Sequence[Path]) -> Reproduction:
    """Finds the commands."""
    folders = "[" + ",".join(str(sweep) for sweep in sweeps) + "]" if len(sweeps) > 1 else str(sweeps[0])
    known = runs.table[runs.table["status"] == "done"]
    example = str(known["folder"].iloc[0] if len(known) else runs.table["folder"].iloc[0])
    run = f"python -m src.train --config-path {shlex.quote(str(Path(example).resolve()))} --config-name config"
    return Reproduction(
        tuple(dict.fromkeys(map(_sweep_command, runs.commands))),
        f"{run} hydra.run.dir=. hydra.output_subdir=null",
        f"python -m src.report {shlex.quote(f'sweep={folders}')}",
        *_trained_with(runs),
        find_software(),
    )


def _sweep_command(overrides: Sequence[str]) -> str:
    """As it was given, without where and how: these belong to whoever runs it."""
    kept = [one for one in overrides if not is_part_of(one.lstrip("+~").partition("=")[0], HOW)]
    return " ".join(["python -m src.train", *map(shlex.quote, kept), "-m"])


def _trained_with(runs: Runs) -> tuple[tuple[MadeWith, ...], int]:
    """What the runs say, equal answers counted, and how many say nothing."""
    counts: Counter[tuple[str, tuple[tuple[str, str], ...], str]] = Counter()
    unrecorded = 0
    for folder in runs.table["folder"]:
        run = RunFolder(Path(folder))
        attempts = read_attempts(run.attempts)
        unrecorded += run.results.exists() and not attempts
        recorded = ((one.software.commit, tuple(one.software.versions.items()), one.device) for one in attempts)
        counts.update(list(dict.fromkeys(recorded)))  # each once, in order
    found = [
        MadeWith(count, Software(commit, dict(versions)), device)
        for (commit, versions, device), count in counts.most_common()  # of equal counts, the first first
    ]
    return tuple(found), unrecorded
