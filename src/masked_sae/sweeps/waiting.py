"""Packs that the queue had no room for: kept beside the sweep, for its jobs to take over as they end.

A job that is done with its pack goes on with one that waits, in its own place in the queue: nothing else has to run,
and nodes need not be allowed to submit. The command sends what there is room for while it stays, or started again.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import FileLock

from masked_sae.errors import DamagedFileError
from masked_sae.files import look_again, read_object, write_json
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
        holder: the job that has taken it over; None of one that waits.
    """

    runs: Sequence[Mapping[str, Any]]
    code: str | None
    setup: Sequence[str]
    holder: str | None = None

    @property
    def folders(self) -> list[Path]:
        return [Path(run["folder"]) for run in self.runs]


@dataclass(frozen=True)
class _Waiting:
    """Attributes:
    settings: of the launcher.
    after: an array that has to end first, where the number of jobs at once is bounded.
    """

    parcels: Sequence[Parcel]
    settings: Mapping[str, Any]
    after: str | None


Chained = Callable[[Parcel], Links]


def send(parcels: Sequence[Parcel], settings: Mapping[str, Any], sweep: Path, chained: Chained) -> None:
    """Submits packs as far as there is room, and keeps the others.

    Args:
        settings: of the launcher.
        sweep: the folder that keeps what has to wait.
        chained: what runs, in each job of a pack's chain.

    Raises:
        InputError: SLURM takes no such jobs.
    """
    with _alone(sweep):
        _send(parcels, settings, sweep, chained, None)


def send_waiting(sweep: Path, chained: Chained) -> None:
    """Submits what waits, as far as there is room now.

    Raises:
        InputError: SLURM takes no such jobs.
    """
    with _alone(sweep):
        waiting = _waiting(sweep)
        if waiting is not None:
            held = [parcel for parcel in waiting.parcels if parcel.holder is not None]
            wanted = [parcel for parcel in waiting.parcels if parcel.holder is None and _is_wanted(parcel)]
            _send(wanted, waiting.settings, sweep, chained, waiting.after, held)


def take_waiting(sweep: Path, code: str | None, job_id: str) -> Parcel | None:
    """Takes over a pack that waits and is to be trained with the same code; first of all one that the job had taken
    before it was queued again. None where there is none.
    """
    if _waiting(sweep) is None:
        return None
    with _alone(sweep):
        waiting = _waiting(sweep)
        if waiting is None:
            return None
        mine = [parcel for parcel in waiting.parcels if parcel.holder == job_id]
        free = [parcel for parcel in waiting.parcels if parcel.holder is None and parcel.code == code]
        taken = next((parcel for parcel in [*mine, *free] if _is_wanted(parcel)), None)
        if taken is not None and taken.holder is None:
            held = replace(taken, holder=job_id)
            _keep(sweep, replace(waiting, parcels=[held if one is taken else one for one in waiting.parcels]))
            note_sent([taken.folders], [[job_id]], str(waiting.settings["submitit_folder"]))
        return taken


def let_go(sweep: Path, job_id: str, *, done: bool) -> None:
    """Of the packs that a job has taken over.

    Args:
        done: they have come to their end; else another job may take them.
    """
    with _alone(sweep):
        waiting = _waiting(sweep)
        if waiting is not None:  # else the sweep was submitted anew
            mine = [parcel for parcel in waiting.parcels if parcel.holder == job_id]
            others = [parcel for parcel in waiting.parcels if parcel.holder != job_id]
            back = [] if done else [replace(parcel, holder=None) for parcel in mine]
            _keep(sweep, replace(waiting, parcels=[*back, *others]))


def is_waiting(sweep: Path) -> bool:
    """Whether packs wait for room in the queue."""
    return bool(waiting_runs(sweep))


def waiting_runs(sweep: Path) -> set[Path]:
    """Folders of the runs whose packs wait for room in the queue."""
    waiting = _waiting(sweep)
    parcels = [] if waiting is None else waiting.parcels
    return {folder.absolute() for parcel in parcels if parcel.holder is None for folder in parcel.folders}


def forget_waiting(sweep: Path) -> None:
    """For whoever submits the sweep anew."""
    (queue_folder(sweep) / _WAITING).unlink(missing_ok=True)


@contextmanager
def _alone(sweep: Path) -> Generator[None]:
    place = queue_folder(sweep)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".waiting.lock"):
        yield


def _send(
    parcels: Sequence[Parcel],
    settings: Mapping[str, Any],
    sweep: Path,
    chained: Chained,
    after: str | None,
    held: Sequence[Parcel] = (),
) -> None:
    """Submits what there is room for; keeps the rest of these, and those that jobs hold."""
    left = list(parcels)
    for _, alike in groupby(parcels, key=lambda parcel: parcel.setup):
        group = list(alike)
        for size in array_sizes(len(group)):
            some, group = group[:size], group[size:]
            sent, after = _send_some(some, settings, chained, after)
            left = left[sent:]
            if sent < len(some):
                _keep(sweep, _Waiting([*held, *left], settings, after))
                return
    _keep(sweep, _Waiting(held, settings, after))


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


def _keep(sweep: Path, waiting: _Waiting) -> None:
    write_json(queue_folder(sweep) / _WAITING, asdict(waiting))


def _waiting(sweep: Path) -> _Waiting | None:
    """Raises:
    DamagedFileError: it is not what is written there.
    """
    path = queue_folder(sweep) / _WAITING
    look_again(path.parent)  # another machine may only just have written it
    try:
        kept = read_object(path)
        parcels = [Parcel(one["runs"], one["code"], one["setup"], one["holder"]) for one in kept["parcels"]]
        return _Waiting(parcels, kept["settings"], kept["after"])
    except FileNotFoundError:
        return None
    except (KeyError, TypeError) as error:
        raise DamagedFileError(path, "no packs that wait", "delete it, and start the sweep again") from error


def _is_wanted(parcel: Parcel) -> bool:
    return any(asked_end(RunFolder(folder)) is None for folder in parcel.folders)
