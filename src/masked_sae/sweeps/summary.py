"""What a command prints at its end: one row for each run, and where the runs lie."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import read_state
from masked_sae.runs.sweep_record import Member, heading, labels_of
from masked_sae.sweeps.notes import print_notes

_COLUMNS = {  # metric in results.json -> heading, format
    "core/l0": ("L0", "{:.1f}"),
    "core/explained_variance": ("expl. var.", "{:.3f}"),
    "core/ce_recovered": ("CE recov.", "{:.3f}"),
    "core/dead_latents": ("dead", "{:.1%}"),
}


def print_members(members: Sequence[Member]) -> None:
    """A table that fits 80 columns, then the folders, then one line for each member that is not done."""
    console = Console(highlight=False, soft_wrap=True)
    keys, labels = list(dict.fromkeys(key for member in members for key in member.swept)), labels_of(members)
    table = Table(box=None, pad_edge=False)
    for key in keys:
        table.add_column(heading(key, labels), justify="right")
    for title, _ in _COLUMNS.values():
        table.add_column(title, justify="right")
    table.add_column("tokens/s", justify="right")
    table.add_column("state")
    for member in members:
        state = read_state(member.folder.state)
        status = "missing" if state is None else state.status
        table.add_row(*[member.swept.get(key, "") for key in keys], *_measured(member.folder), status)
    console.print(table)
    for member in members:
        if member.folder.path.exists():
            console.print(str(member.folder.path), markup=False)
    for member in members:
        state = read_state(member.folder.state)
        if state is not None and state.error:
            console.print(f"{state.status}: {member.label}: {state.error}", markup=False)
    print_notes(members)


def _measured(folder: RunFolder) -> list[str]:
    missing = ["-"] * (len(_COLUMNS) + 1)
    state = read_state(folder.state)
    if state is None:
        return missing
    rate = f"{state.tokens / state.seconds:,.0f}" if state.seconds else "-"
    if not folder.results.exists():
        return [*missing[:-1], rate]
    metrics = json.loads(folder.results.read_text())["metrics"]
    cells = [form.format(metrics[key]) if key in metrics else "-" for key, (_, form) in _COLUMNS.items()]
    return [*cells, rate]
