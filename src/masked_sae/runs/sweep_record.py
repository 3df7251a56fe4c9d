"""A sweep's folder: which runs belong to it."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from masked_sae.errors import DamagedFileError, notice
from masked_sae.files import look_again, read_object, write_json
from masked_sae.runs.folder import RunFolder

MEMBERS = "sweep.json"


@dataclass(frozen=True)
class Member:
    """A run as a sweep sees it.

    Attributes:
        swept: the keys that the sweep varies, with this run's values.
    """

    folder: RunFolder
    swept: Mapping[str, str]

    @property
    def label(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.swept.items()) or self.folder.run_id


@dataclass(frozen=True)
class _Record:
    """Attributes:
    members: by name, the keys that the sweep varies with the member's values.
    commands: what stood on the command lines that they are of.
    labels: what tables call keys that are swept.
    """

    members: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    commands: Sequence[Sequence[str]] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


def record_members(
    sweep: Path, members: Sequence[Member], command: Sequence[str] = (), labels: Mapping[str, str] | None = None
) -> None:
    """Adds to the members that the sweep's folder knows: one whose folder is gone is then missed, not forgotten.
    A folder that knows them already is not written to. A record that is damaged is kept aside, and this is said.

    Args:
        command: what stood on the command line that they are of, without `-m`.
        labels: what tables call keys that are swept.
    """

    def added(known: _Record) -> _Record:
        found = {member.folder.run_id: dict(member.swept) for member in [*read_members(sweep), *members]}
        commands = [*map(list, known.commands), *([list(command)] if command else [])]
        distinct = [one for place, one in enumerate(commands) if one not in commands[:place]]
        return _Record(found, distinct, {**known.labels, **(labels or {})})

    try:
        known = _read(sweep)
        if asdict(added(known)) == asdict(known):
            return
    except DamagedFileError:
        pass  # looked at again below, by one process at a time
    sweep.mkdir(parents=True, exist_ok=True)
    with _locked(sweep):
        _set_aside_if_damaged(sweep)
        write_json(sweep / MEMBERS, asdict(added(_read(sweep))))


def forget_members(sweep: Path, names: Sequence[str], command: Sequence[str] = ()) -> None:
    """Takes members off the record that have come to nothing: those of these that have no folder."""
    with _locked(sweep):
        known = _read(sweep)
        gone = {name for name in names if not (sweep / name).exists()}
        left = {name: swept for name, swept in known.members.items() if name not in gone}
        commands = [one for one in known.commands if list(one) != list(command)]
        write_json(sweep / MEMBERS, asdict(_Record(left, commands if gone else known.commands, known.labels)))


def rename_member(sweep: Path, former: str, now: str) -> None:
    """Of a member whose folder was renamed, where the sweep has it on record."""
    if not (sweep / MEMBERS).exists():
        return
    with _locked(sweep):
        try:
            known = _read(sweep)
        except DamagedFileError:
            return  # whoever records members next says so
        renamed = {now if name == former else name: swept for name, swept in known.members.items()}
        write_json(sweep / MEMBERS, asdict(replace(known, members=renamed)))


def read_members(sweep: Path) -> list[Member]:
    """Those on record, and any other run that lies in the folder; by name where no record says otherwise."""
    recorded = _read_what_can_be(sweep).members
    found = sorted(state.parent.name for state in sweep.glob("*/state.json"))
    order = [*recorded, *(name for name in found if name not in recorded)]
    return [Member(RunFolder(sweep / name), recorded.get(name, {})) for name in order]


def read_commands(sweep: Path) -> list[list[str]]:
    """What stood on the command lines that the members are of; none where that was not recorded."""
    return [list(command) for command in _read_what_can_be(sweep).commands]


def read_labels(sweep: Path) -> dict[str, str]:
    """What tables call keys that are swept, where it is not the last part of the key."""
    return dict(_read_what_can_be(sweep).labels)


def damage_of(sweep: Path) -> DamagedFileError | None:
    """What is wrong with the sweep's record, where anything is: its members are then those that have a folder."""
    try:
        _read(sweep)
    except DamagedFileError as damaged:
        return damaged
    return None


def heading(key: str, labels: Mapping[str, str]) -> str:
    """A configuration key as a column's heading: its label, or the last part of it; a mask's rate is named for it."""
    *parents, last = key.split(".")
    of_mask = f"{parents[-1]} mask " if last == "rate" and parents[:1] == ["mask"] else ""
    return labels.get(key) or of_mask + last.replace("_", " ")


def labels_of(members: Sequence[Member]) -> dict[str, str]:
    """As the members' sweeps have them."""
    sweeps = dict.fromkeys(member.folder.path.parent for member in members)
    return {key: label for sweep in sweeps for key, label in read_labels(sweep).items()}


@contextmanager
def _locked(sweep: Path) -> Generator[None]:
    """For who reads the record to write it anew: nobody else does meanwhile, and what others wrote is seen."""
    with FileLock(sweep / ".sweep.lock"):
        look_again(sweep)
        yield


def _read_what_can_be(sweep: Path) -> _Record:
    try:
        return _read(sweep)
    except DamagedFileError:
        return _Record()


def _read(sweep: Path) -> _Record:
    """Raises:
    DamagedFileError: it is not what is written there.
    """
    path = sweep / MEMBERS
    try:
        found = read_object(path)
    except FileNotFoundError:
        return _Record()
    except OSError as error:
        raise DamagedFileError(path, error.strerror or type(error).__name__) from error
    members, commands, labels = (found.get(name, kind()) for name, kind in _KINDS.items())
    whole = (
        isinstance(members, dict)
        and all(_is_words(swept) and name == Path(name).name for name, swept in members.items())
        and isinstance(commands, list)
        and all(isinstance(one, list) and all(isinstance(word, str) for word in one) for one in commands)
        and _is_words(labels)
    )
    if not whole:
        raise DamagedFileError(path, "no record of a sweep's members")
    return _Record(members, commands, labels)


_KINDS: Mapping[str, type[Any]] = {"members": dict, "commands": list, "labels": dict}


def _is_words(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())


def _set_aside_if_damaged(sweep: Path) -> None:
    damaged = damage_of(sweep)
    if damaged is not None:
        kept = sweep / f"{MEMBERS}.damaged"
        (sweep / MEMBERS).replace(kept)
        notice(f"{damaged}: kept as {kept}, and the members that have a folder recorded anew")
