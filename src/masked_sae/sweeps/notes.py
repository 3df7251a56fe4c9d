"""What could not be measured, or not as asked: said where a command ends."""

from collections.abc import Sequence

from masked_sae.errors import DamagedFileError
from masked_sae.runs.results import read_results
from masked_sae.runs.sweep_record import Member

_FEW = 3  # runs that a line can name


def print_notes(members: Sequence[Member]) -> None:
    """A line for each distinct note of the members' results, with the runs that have it."""
    having: dict[str, list[str]] = {}
    for member in members:
        try:
            notes = read_results(member.folder).notes
        except (OSError, DamagedFileError):
            continue  # the table says so
        for key, note in notes.items():
            having.setdefault(f"{key}: {note}", []).append(member.folder.run_id)
    for note, runs in having.items():
        named = f" ({', '.join(runs)})" if len(runs) <= _FEW else f" ({len(runs)} runs)"
        print(f"note: {note}{named if len(members) > 1 else ''}")
