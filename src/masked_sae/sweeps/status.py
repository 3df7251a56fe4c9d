"""How the members of a sweep are doing: from their folders alone, so from any node, and after the fact."""

import time
from datetime import timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from masked_sae.errors import DamagedFileError, printable
from masked_sae.runs.lock import silence
from masked_sae.runs.state import RunState
from masked_sae.runs.sweep_record import Member, damage_of, heading, labels_of, read_members
from masked_sae.sweeps.summary import find_state, literal, status_of

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


def show_status(sweep: Path, every: float | None) -> None:
    """Prints the table once, or again every few seconds until no member can change any more."""
    console = Console(highlight=False)
    if every is None:
        console.print(view(sweep))
        return
    with Live(view(sweep), console=console, auto_refresh=False) as live:
        while not _all_ended(sweep):
            time.sleep(every)
            live.update(view(sweep), refresh=True)


def _all_ended(sweep: Path) -> bool:
    return all(status_of(find_state(member.folder)) in ("done", "failed") for member in read_members(sweep))


def view(sweep: Path) -> Group:
    """The table of a sweep's members, and a line for each that needs a word."""
    members = read_members(sweep)
    table = Table(box=None, pad_edge=False)
    keys, labels = list(dict.fromkeys(key for member in members for key in member.swept)), labels_of(members)
    for key in keys or ["run"]:
        table.add_column(literal(heading(key, labels)), justify="right")
    for name in ("state", "done", "tok/s", "left", "loss", "L0", "EV", "job"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    damaged = damage_of(sweep)
    notes: list[Text] = [] if damaged is None else [literal(f"damaged: {damaged}")]
    for member in members:
        state = find_state(member.folder)
        names = [literal(name) for name in [member.swept.get(key, "") for key in keys] or [member.folder.run_id]]
        table.add_row(*names, *_cells(state))
        notes.extend(_notes(member, state))
    if not members:
        return Group(literal(f"no runs in {sweep}"), *notes)
    return Group(table, *notes)


def _cells(state: RunState | DamagedFileError | None) -> list[Text | str]:
    status = status_of(state)
    shown: list[Text | str] = [Text(printable(status), style=_COLOURS.get(status, ""))]
    if state is None or isinstance(state, DamagedFileError):
        return [*shown, *["-"] * 7]
    rate = state.tokens_per_second
    tokens_left = state.tokens * (state.steps / state.step - 1) if state.step else 0
    left = str(timedelta(seconds=round(tokens_left / rate))) if rate and state.status == "running" else "-"
    shown_metrics = ("loss", "l0", "explained_variance")
    metrics = [f"{state.metrics[key]:.3g}" if key in state.metrics else "-" for key in shown_metrics]
    share = f"{state.step / state.steps:.0%}" if state.steps else "-"
    return [*shown, share, f"{rate:,.0f}" if rate else "-", left, *metrics, literal(state.job_id or "-")]


def _notes(member: Member, state: RunState | DamagedFileError | None) -> list[Text]:
    if state is None:
        return [literal(f"missing: {member.label}: no folder {member.folder.path}")]
    if isinstance(state, DamagedFileError):
        return [literal(f"damaged: {member.label}: {state}")]
    if state.error:
        return [literal(f"{state.status}: {member.label}: {state.error}")]
    if state.status != "running":
        return []
    silent_for = silence(member.folder.lock, state.updated)
    if silent_for > _SILENT_AFTER:
        minutes = round(silent_for.total_seconds() / 60)
        return [
            literal(f"running: {member.label}: silent for {minutes} minutes; start the sweep again to go on with it")
        ]
    return []
