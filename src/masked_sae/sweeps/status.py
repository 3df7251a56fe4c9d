"""How the members of a sweep are doing: from their folders alone, so from any node, and after the fact."""

import time
from datetime import timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from masked_sae.runs.lock import silence
from masked_sae.runs.state import RunState, read_state
from masked_sae.runs.sweep_record import Member, heading, labels_of, read_members

_COLOURS = {"done": "green", "running": "cyan", "failed": "red", "preempted": "yellow", "missing": "red"}
_SILENT_AFTER = timedelta(minutes=10)


def show_status(sweep: Path, every: float | None) -> None:
    """Prints the table once, or again every few seconds until no member can change any more."""
    console = Console(highlight=False)
    if every is None:
        console.print(_view(sweep))
        return
    with Live(_view(sweep), console=console, auto_refresh=False) as live:
        while not _all_ended(sweep):
            time.sleep(every)
            live.update(_view(sweep), refresh=True)


def _all_ended(sweep: Path) -> bool:
    states = [read_state(member.folder.state) for member in read_members(sweep)]
    return all(state is not None and state.status in ("done", "failed") for state in states)


def _view(sweep: Path) -> Group:
    members = read_members(sweep)
    table = Table(box=None, pad_edge=False)
    keys, labels = list(dict.fromkeys(key for member in members for key in member.swept)), labels_of(members)
    for key in keys or ["run"]:
        table.add_column(heading(key, labels), justify="right")
    for name in ("state", "done", "tok/s", "left", "loss", "L0", "EV", "job"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    notes: list[Text] = []
    for member in members:
        state = read_state(member.folder.state)
        names = [member.swept.get(key, "") for key in keys] or [member.folder.run_id]
        table.add_row(*names, *_cells(state))
        notes.extend(_notes(member, state))
    if not members:
        return Group(Text(f"no runs in {sweep}"))
    return Group(table, *notes)


def _cells(state: RunState | None) -> list[Text | str]:
    status = "missing" if state is None else state.status
    shown: list[Text | str] = [Text(status, style=_COLOURS.get(status, ""))]
    if state is None:
        return [*shown, *["-"] * 7]
    rate = state.tokens_per_second
    tokens_left = state.tokens * (state.steps / state.step - 1) if state.step else 0
    left = str(timedelta(seconds=round(tokens_left / rate))) if rate and state.status == "running" else "-"
    shown_metrics = ("loss", "l0", "explained_variance")
    metrics = [f"{state.metrics[key]:.3g}" if key in state.metrics else "-" for key in shown_metrics]
    share = f"{state.step / state.steps:.0%}" if state.steps else "-"
    return [*shown, share, f"{rate:,.0f}" if rate else "-", left, *metrics, state.job_id or "-"]


def _notes(member: Member, state: RunState | None) -> list[Text]:
    if state is None:
        return [Text(f"missing: {member.label}: no folder {member.folder.path}")]
    if state.error:
        return [Text(f"{state.status}: {member.label}: {state.error}")]
    if state.status != "running":
        return []
    silent_for = silence(member.folder.lock, state.updated)
    if silent_for > _SILENT_AFTER:
        minutes = round(silent_for.total_seconds() / 60)
        return [Text(f"running: {member.label}: silent for {minutes} minutes; start the sweep again to go on with it")]
    return []
