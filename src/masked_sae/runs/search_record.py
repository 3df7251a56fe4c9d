"""`search.json` in a sweep's folder: what a search looked for and what it has found so far, for whoever reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from masked_sae.errors import DamagedFileError
from masked_sae.files import read_object, write_json

RECORD = "search.json"


@dataclass(frozen=True)
class Found:
    """A member that nothing else of the search is better than.

    Attributes:
        settings: that were searched, with its values.
        values: of the objectives, on the run that was chosen for them.
    """

    run_id: str
    settings: Mapping[str, str]
    values: Sequence[float]


@dataclass(frozen=True)
class SearchRecord:
    """Attributes:
    objectives: metrics of `results.json`.
    searched: by key, among which values.
    trials: how many there are, by how they ended.
    best: one, or the front of several objectives.
    confirm: the command that trains these at new seeds.
    confirmed_in: the name of the folder beside the sweep's that it trains them into.
    """

    objectives: Sequence[str]
    searched: Mapping[str, str]
    trials: Mapping[str, int]
    best: Sequence[Found]
    confirm: Sequence[str]
    confirmed_in: str


def write_search(sweep: Path, record: SearchRecord) -> None:
    write_json(sweep / RECORD, asdict(record))


def read_search(sweep: Path) -> SearchRecord | None:
    """None of a sweep that is no search.

    Raises:
        DamagedFileError: it is not what is written there.
    """
    path = sweep / RECORD
    try:
        found = read_object(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedFileError(path, error.strerror or type(error).__name__) from error
    try:
        return SearchRecord(
            _words(found["objectives"]),
            _named(found["searched"], str),
            _named(found["trials"], int),
            [_found(one) for one in found["best"]],
            _words(found["confirm"]),
            _folder_name(found["confirmed_in"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(path, "no record of a search") from error


def _found(found: Any) -> Found:
    values = [float(value) for value in found["values"] if not isinstance(value, str)]
    return Found(_folder_name(found["run_id"]), _named(found["settings"], str), values)


def _named(found: Any, kind: type) -> dict[str, Any]:
    if not all(isinstance(key, str) and isinstance(value, kind) for key, value in found.items()):
        raise TypeError
    return dict(found)


def _words(found: Any) -> list[str]:
    return [_text(one) for one in found]


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError
    return found


def _folder_name(found: Any) -> str:
    if _text(found) != Path(found).name:
        raise ValueError
    return found
