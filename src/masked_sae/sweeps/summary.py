"""What a command prints at its end: one row for each run, and where the runs lie."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from masked_sae.errors import DamagedFileError, one_line, printable
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import read_results
from masked_sae.runs.state import RunState, read_state
from masked_sae.runs.sweep_record import Member, damage_of, heading, labels_of
from masked_sae.sweeps.notes import print_notes

_COLUMNS = {  # metric in results.json -> heading, format
    "core/l0": ("L0", "{:.1f}"),
    "core/explained_variance": ("expl. var.", "{:.3f}"),
    "core/ce_recovered": ("CE recov.", "{:.3f}"),
    "core/dead_latents": ("dead", "{:.1%}"),
}


def print_members(members: Sequence[Member]) -> None:
    """A table that fits 80 columns, then the folders, then one line for each member that is not done."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    keys, labels = list(dict.fromkeys(key for member in members for key in member.swept)), labels_of(members)
    states = [find_state(member.folder) for member in members]
    measured = [_measured(member.folder, state) for member, state in zip(members, states, strict=True)]
    table = Table(box=None, pad_edge=False)
    for key in keys:
        table.add_column(literal(heading(key, labels)), justify="right")
    for title, _ in _COLUMNS.values():
        table.add_column(title, justify="right")
    table.add_column("tokens/s", justify="right")
    table.add_column("state")
    for member, state, (cells, _) in zip(members, states, measured, strict=True):
        swept = [literal(member.swept.get(key, "")) for key in keys]
        table.add_row(*swept, *cells, literal(status_of(state)))
    console.print(table)
    for member in members:
        if member.folder.path.exists():
            console.print(printable(str(member.folder.path)))
    for sweep in dict.fromkeys(member.folder.path.parent for member in members):
        if (damaged := damage_of(sweep)) is not None:
            console.print(printable(f"damaged: {damaged}"))
    for member, state, (_, damaged) in zip(members, states, measured, strict=True):
        if isinstance(state, DamagedFileError):
            console.print(printable(f"damaged: {member.label}: {state}"))
        elif state is not None and state.error:
            console.print(printable(f"{state.status}: {member.label}: {state.error}"))
        if damaged is not None:
            console.print(printable(f"damaged: {member.label}: {damaged}"))
    print_notes(members)


def find_state(folder: RunFolder) -> RunState | DamagedFileError | None:
    """A run's state, or what is wrong with it: of many runs, one may be damaged and the others not."""
    try:
        return read_state(folder.state)
    except DamagedFileError as damaged:
        return damaged
    except OSError as error:
        return DamagedFileError(folder.state, error.strerror or one_line(error))


def status_of(state: RunState | DamagedFileError | None) -> str:
    if isinstance(state, DamagedFileError):
        return "damaged"
    return "missing" if state is None else state.status


def literal(text: str) -> Text:
    """Text from outside as it is: `[red]` is no colour."""
    return Text(printable(text))


def _measured(
    folder: RunFolder, state: RunState | DamagedFileError | None
) -> tuple[list[str], DamagedFileError | None]:
    """The cells of a run's figures, and what is wrong with its results where anything is."""
    missing = ["-"] * (len(_COLUMNS) + 1)
    if state is None or isinstance(state, DamagedFileError):
        return missing, None
    rate = f"{state.tokens / state.seconds:,.0f}" if state.seconds else "-"
    try:
        metrics = read_results(folder).metrics
        return [
            *(form.format(metrics[key]) if key in metrics else "-" for key, (_, form) in _COLUMNS.items()),
            rate,
        ], None
    except FileNotFoundError:
        return [*missing[:-1], rate], None
    except DamagedFileError as damaged:
        return [*missing[:-1], rate], damaged
    except OSError as error:
        return [*missing[:-1], rate], DamagedFileError(folder.results, error.strerror or one_line(error))
