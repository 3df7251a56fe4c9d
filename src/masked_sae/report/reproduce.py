"""How to get the same runs again: commands, versions, commit."""

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

from masked_sae.report.design import distinct, show_setting
from masked_sae.report.runs import Runs

_PACKAGES = "masked-sae torch transformers transformer-lens sae-lens numpy scipy pandas".split()
_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")
_ELSEWHERE = ("output_dir", "force", "detach", "trainer.", "logger.", "data.store_dir")  # how, not what


@dataclass(frozen=True)
class Reproduction:
    """Attributes:
    sweep: the command that trains all of them; empty where they are no whole grid.
    run: the command that trains one of them again, from its own configuration.
    report: the command that writes this report.
    versions: of this project and what it builds on, on the machine that wrote the report.
    commit: of the working tree there, with a note where it had changes; empty outside a checkout.
    """

    sweep: str
    run: str
    report: str
    versions: Mapping[str, str]
    commit: str


def reproduce(runs: Runs, sweeps: Sequence[Path], defaults: Mapping[str, Any] | None) -> Reproduction:
    """Finds the commands.

    Args:
        defaults: the flat configuration that `src.train` has without overrides; None where it is not known.
    """
    folders = "[" + ",".join(str(sweep) for sweep in sweeps) + "]" if len(sweeps) > 1 else str(sweeps[0])
    known = runs.table[runs.table["status"] == "done"]
    example = str(known["folder"].iloc[0] if len(known) else runs.table["folder"].iloc[0])
    run = f"python -m src.train --config-path {shlex.quote(str(Path(example).resolve()))} --config-name config"
    return Reproduction(
        _sweep_command(runs, defaults) if len(sweeps) == 1 and defaults else "",
        f"{run} hydra.run.dir=. hydra.output_subdir=null",
        f"python -m src.report {shlex.quote(f'sweep={folders}')}",
        {name: found for name in _PACKAGES if (found := _version(name))},
        _commit(),
    )


def _sweep_command(runs: Runs, defaults: Mapping[str, Any]) -> str:
    """What the runs share and differ in, against the defaults, as one command."""
    table = runs.table
    swept = {key: distinct(table[key]) for key in runs.swept if key in table}
    if not swept or len(table[list(swept)].dropna().drop_duplicates()) != len(list(product(*swept.values()))):
        return ""
    overrides: list[str] = []
    for key in runs.settings:
        values = distinct(table[key])
        if key in swept or key.startswith(_ELSEWHERE) or len(values) == 0:
            continue
        if len(values) > 1:
            return ""
        (value,) = values
        if key not in defaults or defaults[key] != value:
            overrides.append(f"{'' if key in defaults else '++'}{key}={_value(value)}")
    overrides += [f"{key}={','.join(_value(value) for value in values)}" for key, values in swept.items()]
    return " ".join(["python -m src.train", *map(shlex.quote, overrides), "-m"])


def _value(value: object) -> str:
    """A value as Hydra's command line takes it."""
    if isinstance(value, float) and value.is_integer():
        return show_setting(value)
    if isinstance(value, str) and not value.startswith("[") and not _PLAIN.fullmatch(value):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"'
    return show_setting(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not git("ls-files", str(Path(__file__))):
            return ""  # installed inside somebody else's checkout
        changed = " with changes that are not committed" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return ""
