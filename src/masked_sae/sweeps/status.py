"""How the members of a sweep are doing: from their folders alone, so from any node, and after the fact."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from masked_sae.errors import DamagedFileError, printable
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.lock import silence
from masked_sae.runs.state import ENDED, RunState
from masked_sae.runs.sweep_record import Member, damage_of, heading, labels_of, read_members
from masked_sae.sweeps.summary import find_state, literal, status_of
from masked_sae.sweeps.waiting import waiting_runs

_COLOURS = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "preempted": "yellow",
    "cancelled": "yellow",
    "pruned": "yellow",
    "missing": "red",
    "damaged": "red",
}
_SILENT_AFTER = timedelta(minutes=10)
_DROPPED_FIRST = ("step", "loss", "L0", "node", "EV", "again", "job")  # where the terminal is narrow
_MOST_ROWS = 100
_OF_MANY = ("created", "done")  # states that are only counted where there are more members than rows
_WIDEST = 10_000
_NONE = "-"


@dataclass(frozen=True)
class _Seen:
    """A member as it was looked at; `silent_for` of one that runs."""

    member: Member
    state: RunState | DamagedFileError | None
    silent_for: timedelta | None
    restarts: int


def show_status(sweep: Path, every: float | None) -> None:
    """Prints the table once, or again every few seconds until no member can change any more."""
    console = Console(highlight=False)
    if every is None:
        console.print(view(sweep, console))
        return
    with Live(view(sweep, console), console=console, auto_refresh=False) as live:
        while not _all_ended(sweep):
            time.sleep(every)
            live.update(view(sweep, console), refresh=True)


def _all_ended(sweep: Path) -> bool:
    return all(status_of(find_state(member.folder)) in ENDED for member in read_members(sweep))


def view(sweep: Path, console: Console | None = None) -> Group:
    """The table of a sweep's members, with the columns that there is room for; a line for the whole, and one for each
    that needs a word. Of very many, those that run or have failed are shown.
    """
    seen = [_look(member) for member in read_members(sweep)]
    damaged = damage_of(sweep)
    notes: list[Text] = [] if damaged is None else [literal(f"damaged: {damaged}")]
    if not seen:
        return Group(literal(f"no runs in {sweep}"), *notes)
    for one in seen:
        notes.extend(_notes(one))
    if waiting := waiting_runs(sweep):
        notes.append(literal(f"{len(waiting)} wait for room in the queue"))
    told = seen if len(seen) <= _MOST_ROWS else [one for one in seen if status_of(one.state) not in _OF_MANY]
    told = told[:_MOST_ROWS]
    if len(told) < len(seen):
        notes.insert(0, literal(f"{len(seen) - len(told)} of these are counted, not shown"))
    table = [_fitting(told, console or Console())] if told else []
    return Group(*table, literal(_whole(seen)), *notes[:_MOST_ROWS])


def _look(member: Member) -> _Seen:
    state = find_state(member.folder)
    if state is None or isinstance(state, DamagedFileError):
        return _Seen(member, state, None, 0)
    silent_for = silence(member.folder) if state.status == "running" else None
    return _Seen(member, state, silent_for, max(0, len(read_attempts(member.folder.attempts)) - 1))


def _fitting(seen: Sequence[_Seen], console: Console) -> Table:
    left, unbounded = dict(_COLUMNS), console.options.update(max_width=_WIDEST)
    table = _table(seen, left)
    for title in _DROPPED_FIRST:
        if Measurement.get(console, unbounded, table).maximum <= console.width:
            break
        del left[title]
        table = _table(seen, left)
    return table


def _table(seen: Sequence[_Seen], columns: "dict[str, Callable[[RunState, _Seen], str]]") -> Table:
    members = [one.member for one in seen]
    table = Table(box=None, pad_edge=False)
    keys, labels = list(dict.fromkeys(key for member in members for key in member.swept)), labels_of(members)
    for key in keys or ["run"]:
        table.add_column(literal(heading(key, labels)), justify="right")
    table.add_column("state", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for one in seen:
        names = [one.member.swept.get(key, "") for key in keys] or [one.member.folder.run_id]
        status = status_of(one.state)
        is_silent = one.silent_for is not None and one.silent_for > _SILENT_AFTER
        shown = Text(printable(status), style="red" if is_silent else _COLOURS.get(status, ""))
        state = one.state if isinstance(one.state, RunState) else None
        cells = [_NONE if state is None else cell(state, one) for cell in columns.values()]
        table.add_row(*map(literal, names), shown, *map(literal, cells))
    return table


def _tokens_left(state: RunState) -> float | None:
    return state.tokens * (state.steps / state.step - 1) if state.step else None


def _time_left(state: RunState, _: _Seen) -> str:
    left, rate = _tokens_left(state), state.tokens_per_second
    if left is None or not rate or state.status != "running":
        return _NONE
    return str(timedelta(seconds=round(left / rate)))


def _short(span: timedelta | None) -> str:
    if span is None:
        return _NONE
    seconds = max(0, round(span.total_seconds()))
    return next((f"{seconds // size}{unit}" for unit, size in _UNITS.items() if seconds >= size), "0s")


_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def _metric(name: str) -> "Callable[[RunState, _Seen], str]":
    return lambda state, _: f"{state.metrics[name]:.3g}" if name in state.metrics else _NONE


_COLUMNS: "dict[str, Callable[[RunState, _Seen], str]]" = {
    "done": lambda state, _: f"{state.step / state.steps:.0%}" if state.steps else _NONE,
    "step": lambda state, _: f"{state.step:,}" if state.steps else _NONE,
    "tok/s": lambda state, _: f"{state.tokens_per_second:,.0f}" if state.tokens_per_second else _NONE,
    "left": _time_left,
    "seen": lambda _, one: _short(one.silent_for),  # how long ago it gave a sign of life
    "again": lambda _, one: str(one.restarts) if one.restarts else _NONE,  # times that it was gone on with
    "loss": _metric("loss"),
    "L0": _metric("l0"),
    "EV": _metric("explained_variance"),
    "node": lambda state, _: state.host.partition(".")[0] or _NONE,
    "job": lambda state, _: state.job_id or _NONE,
}


def _whole(seen: Sequence[_Seen]) -> str:
    """How many are how far, and when all will be, at the rate of those that run now."""
    counts = Counter(status_of(one.state) for one in seen)
    text = f"{len(seen)} runs: {', '.join(f'{count} {status}' for status, count in counts.most_common())}"
    states = [one.state for one in seen if isinstance(one.state, RunState)]
    running = [state for state in states if state.status == "running"]
    rate = sum(state.tokens_per_second for state in running)
    totals = [state.tokens / state.step * state.steps for state in states if state.step]
    if not rate or not totals:
        return text
    usual = sum(totals) / len(totals)  # of one that has not begun
    lefts = [_tokens_left(state) for state in states if state.status not in ENDED]
    seconds = sum(usual if left is None else left for left in lefts) / rate
    return f"{text}; {timedelta(seconds=round(seconds))} left at {rate:,.0f} tokens/s"


def _notes(one: _Seen) -> list[Text]:
    member, state = one.member, one.state
    if state is None:
        return [literal(f"missing: {member.label}: no folder {member.folder.path}")]
    if isinstance(state, DamagedFileError):
        return [literal(f"damaged: {member.label}: {state}")]
    if state.error:
        return [literal(f"{state.status}: {member.label}: {state.error}")]
    if one.silent_for is not None and one.silent_for > _SILENT_AFTER:
        silent = f"silent for {round(one.silent_for.total_seconds() / 60)} minutes"
        return [literal(f"running: {member.label}: {silent}; start the sweep again to go on with it")]
    return []
