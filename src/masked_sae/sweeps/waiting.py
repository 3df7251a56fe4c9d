"""Packs that the queue had no room for: kept beside the sweep, and sent as room is made, by whoever comes first.

The command that submitted them looks while it stays, and each job looks as it starts and as it ends. There is no other
process; where none of these is left, starting the sweep again sends what is left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import FileLock

from masked_sae.errors import DamagedFileError, InputError, notice
from masked_sae.files import read_object, write_json
from masked_sae.runs.asked_end import asked_end
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import write_state
from masked_sae.sweeps.jobs import note_sent, queue_folder
from masked_sae.sweeps.submission import Links, NoRoomError, array_sizes, send_array
from masked_sae.training.done import known_state

_WAITING = "waiting.json"


@dataclass(frozen=True)
class Parcel:
    """A pack to be sent: plain values alone, so that another process can do it.

    Attributes:
        runs: as a job carries them.
        code: the folder of the code that they are to be trained with; None for what is there.
        setup: shell lines for it.
    """

    runs: Sequence[Mapping[str, Any]]
    code: str | None
    setup: Sequence[str]

    @property
    def folders(self) -> list[Path]:
        return [Path(run["folder"]) for run in self.runs]


Chained = Callable[[Parcel], Links]


def send(
    parcels: Sequence[Parcel], settings: Mapping[str, Any], sweep: Path, chained: Chained, after: str | None = None
) -> int:
    """Submits packs as far as there is room, and keeps the others to be sent later.

    Args:
        settings: of the launcher.
        sweep: the folder that keeps what has to wait.
        chained: what runs, in each job of a pack's chain.
        after: an array that has to end first, where the number of jobs at once is bounded.

    Returns:
        How many packs wait.

    Raises:
        InputError: SLURM takes no such jobs.
    """
    place = queue_folder(sweep)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".waiting.lock"):
        return _send(list(parcels), settings, sweep, chained, after)


def send_waiting(sweep: Path, chained: Chained) -> None:
    """Submits what waits, as far as there is room now; says what stands in the way, and raises nothing."""
    path = queue_folder(sweep) / _WAITING
    if not path.exists():
        return
    try:
        with FileLock(queue_folder(sweep) / ".waiting.lock"):
            kept = read_object(path)
            parcels = [parcel for parcel in map(_read, kept["parcels"]) if _is_wanted(parcel)]
            _send(parcels, kept["settings"], sweep, chained, kept["after"])
    except FileNotFoundError:
        return  # somebody else sent the last of them
    except (InputError, DamagedFileError, KeyError, OSError) as error:
        notice(f"jobs that wait for room were not sent: {error}; starting the sweep again sends them")


def is_waiting(sweep: Path) -> bool:
    """Whether packs wait for room in the queue."""
    return (queue_folder(sweep) / _WAITING).exists()


def waiting_runs(sweep: Path) -> set[Path]:
    """Folders of the runs whose packs wait for room in the queue."""
    try:
        kept = read_object(queue_folder(sweep) / _WAITING)
        return {folder.absolute() for parcel in map(_read, kept["parcels"]) for folder in parcel.folders}
    except FileNotFoundError:
        return set()


def forget_waiting(sweep: Path) -> None:
    """For whoever submits the sweep anew."""
    (queue_folder(sweep) / _WAITING).unlink(missing_ok=True)


def _send(parcels: list[Parcel], settings: Mapping[str, Any], sweep: Path, chained: Chained, after: str | None) -> int:
    left = list(parcels)
    for _, alike in groupby(parcels, key=lambda parcel: parcel.setup):
        group = list(alike)
        for size in array_sizes(len(group)):
            some, group = group[:size], group[size:]
            sent, after = _send_some(some, settings, chained, after)
            left = left[sent:]
            if sent < len(some):
                _keep(sweep, left, settings, after)
                return len(left)
    forget_waiting(sweep)
    return 0


def _send_some(
    parcels: Sequence[Parcel], settings: Mapping[str, Any], chained: Chained, after: str | None
) -> tuple[int, str | None]:
    """How many of one array's packs found room, and what later ones have to wait for."""
    done, size, bounded = 0, len(parcels), settings.get("array_parallelism") is not None
    while done < len(parcels) and size:
        some = parcels[done : done + size]
        try:
            ids = send_array([chained(parcel) for parcel in some], settings, some[0].setup, after if bounded else None)
        except NoRoomError:
            size //= 2
            continue
        after = ids[-1][-1].partition("_")[0]
        done += len(some)
        note_sent([parcel.folders for parcel in some], ids, str(settings["submitit_folder"]))
        for parcel, jobs in zip(some, ids, strict=True):
            _note_first(parcel, jobs[0])
    return done, after


def _note_first(parcel: Parcel, job_id: str) -> None:
    for folder in map(RunFolder, parcel.folders):
        state = known_state(folder)
        if state is not None and state.status == "created":  # a quick job may have gone further by now
            write_state(folder.state, state, job_id=job_id)


def _keep(sweep: Path, parcels: Sequence[Parcel], settings: Mapping[str, Any], after: str | None) -> None:
    kept = {"parcels": [asdict(parcel) for parcel in parcels], "settings": dict(settings), "after": after}
    write_json(queue_folder(sweep) / _WAITING, kept)


def _read(kept: Mapping[str, Any]) -> Parcel:
    return Parcel(kept["runs"], kept["code"], kept["setup"])


def _is_wanted(parcel: Parcel) -> bool:
    return any(asked_end(RunFolder(folder)) is None for folder in parcel.folders)
