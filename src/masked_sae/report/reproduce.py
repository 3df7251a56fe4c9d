"""How to get the same runs again: commands, versions, commit."""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from masked_sae.config import ARCHITECTURES
from masked_sae.report.design import distinct, show_setting
from masked_sae.report.runs import Runs
from masked_sae.runs.attempts import Software, find_software, read_attempts
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.identity import HOW, is_part_of

_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")

Defaults = Callable[[Sequence[str]], Mapping[str, Any] | None]


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
    sweep: the command that trains all of them; empty where they are no whole grid.
    run: the command that trains one of them again, from its own configuration.
    report: the command that writes this report.
    trained: with what the runs were trained, as far as they say; most runs first. Resumed runs may be in several.
    untold: runs with results that do not say.
    written: with what the report was written.
    """

    sweep: str
    run: str
    report: str
    trained: tuple[MadeWith, ...]
    untold: int
    written: Software


def reproduce(runs: Runs, sweeps: Sequence[Path], defaults: Defaults | None) -> Reproduction:
    """Finds the commands.

    Args:
        defaults: gives the flat configuration that `src.train` has with some choices and no settings; None where it
            is not known.
    """
    folders = "[" + ",".join(str(sweep) for sweep in sweeps) + "]" if len(sweeps) > 1 else str(sweeps[0])
    known = runs.table[runs.table["status"] == "done"]
    example = str(known["folder"].iloc[0] if len(known) else runs.table["folder"].iloc[0])
    run = f"python -m src.train --config-path {shlex.quote(str(Path(example).resolve()))} --config-name config"
    return Reproduction(
        _sweep_command(runs, defaults) if len(sweeps) == 1 and defaults else "",
        f"{run} hydra.run.dir=. hydra.output_subdir=null",
        f"python -m src.report {shlex.quote(f'sweep={folders}')}",
        *_trained_with(runs),
        find_software(),
    )


def _trained_with(runs: Runs) -> tuple[tuple[MadeWith, ...], int]:
    """What the runs say, equal answers counted, and how many say nothing."""
    counts: Counter[tuple[str, tuple[tuple[str, str], ...], str]] = Counter()
    untold = 0
    for folder in runs.table["folder"]:
        run = RunFolder(Path(folder))
        attempts = read_attempts(run.attempts)
        untold += run.results.exists() and not attempts
        told = ((one.software.commit, tuple(one.software.versions.items()), one.device) for one in attempts)
        counts.update(list(dict.fromkeys(told)))  # each once, in order
    found = [
        MadeWith(count, Software(commit, dict(versions)), device)
        for (commit, versions, device), count in counts.most_common()  # of equal counts, the first first
    ]
    return tuple(found), untold


def _sweep_command(runs: Runs, defaults_of: Defaults) -> str:
    """What the runs share and differ in, against the defaults, as one command; empty where there is none."""
    table = runs.table
    defaults = defaults_of([])
    if defaults is None:
        return ""
    choices = _choices(table, defaults)
    if choices:
        defaults = defaults_of(choices) or defaults
    evaluated = runs.measured if len(runs.measured) else table  # the others may be yet to be
    swept = {key: distinct(table[key]) for key in runs.swept if key in table}
    if not swept or len(table[list(swept)].dropna().drop_duplicates()) != len(list(product(*swept.values()))):
        return ""
    overrides = list(choices)
    for key in runs.settings:
        values = distinct((evaluated if is_part_of(key, ("eval",)) else table)[key])
        if key in swept or is_part_of(key, HOW) or len(values) == 0:
            continue  # where and how belong to whoever runs it
        if len(values) > 1:
            return ""
        (value,) = values
        if key not in defaults or defaults[key] != value:
            overrides.append(f"{'' if key in defaults else '++'}{key}={_value(value)}")
    overrides += [f"{key}={','.join(_value(value) for value in values)}" for key, values in swept.items()]
    return " ".join(["python -m src.train", *map(shlex.quote, overrides), "-m"])


def _choices(table: pd.DataFrame, defaults: Mapping[str, Any]) -> list[str]:
    """The architecture, if there is one and it is not the default: its settings are not all another's."""
    architectures = distinct(table["sae.architecture"]) if "sae.architecture" in table else ()
    if len(architectures) != 1 or architectures[0] not in ARCHITECTURES:
        return []
    return [] if architectures[0] == defaults["sae.architecture"] else [f"sae={architectures[0]}"]


def _value(value: object) -> str:
    """A value as Hydra's command line takes it."""
    if isinstance(value, float) and value.is_integer():
        return show_setting(value)
    if isinstance(value, str) and not value.startswith("[") and not _PLAIN.fullmatch(value):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"'
    return show_setting(value)
