"""How to get the same runs again: commands, versions, commit."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from masked_sae.bundled import command_name
from masked_sae.report.runs_table import Runs
from masked_sae.runs.attempts import Attempt, Software, find_software, read_attempts
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.identity import HOW, is_part_of

_RUNS_NAMED = 8  # in one line


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
    threads: a line, where runs or attempts differ in torch's threads on the CPU, whose sums then round differently.
    codes: a line, where runs went on under other code than they were begun with.
    written: with what the report was written.
    """

    sweeps: tuple[str, ...]
    run: str
    report: str
    trained: tuple[MadeWith, ...]
    unrecorded: int
    threads: str
    codes: str
    written: Software


def reproduce(runs: Runs, sweeps: Sequence[Path]) -> Reproduction:
    """Finds the commands."""
    folders = "[" + ",".join(str(sweep) for sweep in sweeps) + "]" if len(sweeps) > 1 else str(sweeps[0])
    return Reproduction(
        tuple(dict.fromkeys(map(_sweep_command, runs.commands))),
        _run_command(runs),
        f"{command_name('report')} {shlex.quote(f'sweep={folders}')}",
        *_trained_with(runs),
        _threads(runs),
        _codes(runs),
        find_software(),
    )


def _run_command(runs: Runs) -> str:
    """Of a run that is done, if one is; empty where there are references alone."""
    folders = [*runs.measured["folder"], *runs.own["folder"]]
    if not folders:
        return ""
    run = f"{command_name('train')} --config-path {shlex.quote(str(Path(folders[0]).resolve()))} --config-name config"
    return f"{run} hydra.run.dir=. hydra.output_subdir=null"


def _threads(runs: Runs) -> str:
    of_run = {name: tuple(dict.fromkeys(one.threads for one in found)) for name, found in _attempts(runs).items()}
    if not of_run:
        return ""
    usual, count = Counter(of_run.values()).most_common(1)[0]
    others = [f"{name} ({_then(used)})" for name, used in of_run.items() if used != usual or len(usual) > 1]
    if not others:
        return ""
    of = f"{count} of {len(of_run)} runs were trained with {_then(usual)} CPU threads; " if len(usual) == 1 else ""
    return f"{of}with another number, or with several, so bits may differ by round-off: {_named(others)}."


def _codes(runs: Runs) -> str:
    codes = {name: {one.code for one in attempts if one.code} for name, attempts in _attempts(runs).items()}
    several = [name for name, found in codes.items() if len(found) > 1]
    return f"Went on under other code than they were begun with (code=current): {_named(several)}." if several else ""


def _attempts(runs: Runs) -> dict[str, list[Attempt]]:
    """Of each run that has any on record."""
    folders = zip(runs.own["run_id"], runs.own["folder"], strict=True)
    found = {str(name): read_attempts(RunFolder(Path(folder)).attempts) for name, folder in folders}
    return {name: attempts for name, attempts in found.items() if attempts}


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _RUNS_NAMED} more" if len(names) > _RUNS_NAMED else ""
    return ", ".join(names[:_RUNS_NAMED]) + more


def _then(used: tuple[int, ...]) -> str:
    return " then ".join(map(str, used))


def _sweep_command(overrides: Sequence[str]) -> str:
    """As it was given, without where and how: these belong to whoever runs it."""
    kept = [one for one in overrides if not is_part_of(one.lstrip("+~").partition("=")[0], HOW)]
    return " ".join([command_name("train"), *map(shlex.quote, kept), "-m"])


def _trained_with(runs: Runs) -> tuple[tuple[MadeWith, ...], int]:
    """What the runs say, equal answers counted, and how many say nothing."""
    counts: Counter[tuple[str, tuple[tuple[str, str], ...], str]] = Counter()
    unrecorded = 0
    for folder in runs.own["folder"]:
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
