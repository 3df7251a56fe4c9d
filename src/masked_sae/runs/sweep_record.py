"""A sweep's folder: which runs belong to it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from masked_sae.files import write_json
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


def record_members(
    sweep: Path, members: Sequence[Member], command: Sequence[str] = (), labels: Mapping[str, str] | None = None
) -> None:
    """Adds to the members that the sweep's folder knows: one whose folder is gone is then missed, not forgotten.

    Args:
        command: what stood on the command line that they are of, without `-m`.
        labels: what tables call keys that are swept.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep / ".sweep.lock"):
        known = {member.folder.run_id: dict(member.swept) for member in [*read_members(sweep), *members]}
        commands = [*read_commands(sweep), *([list(command)] if command else [])]
        distinct = [one for place, one in enumerate(commands) if one not in commands[:place]]
        called = read_labels(sweep) | dict(labels or {})
        write_json(sweep / MEMBERS, {"members": known, "commands": distinct, "labels": called})


def rename_member(sweep: Path, former: str, now: str) -> None:
    """Of a member whose folder was renamed, where the sweep has it on record."""
    if not (sweep / MEMBERS).exists():
        return
    with FileLock(sweep / ".sweep.lock"):
        record = _read(sweep)
        members: dict[str, Any] = record.get("members", {})
        renamed = {now if name == former else name: swept for name, swept in members.items()}
        write_json(sweep / MEMBERS, {**record, "members": renamed})


def read_members(sweep: Path) -> list[Member]:
    """Those on record, and any other run that lies in the folder; by name where no record says otherwise."""
    recorded: dict[str, dict[str, str]] = _read(sweep).get("members", {})
    found = sorted(state.parent.name for state in sweep.glob("*/state.json"))
    swept = {name: {} for name in found} | recorded
    order = [*recorded, *(name for name in found if name not in recorded)]
    return [Member(RunFolder(sweep / name), swept[name]) for name in order]


def read_commands(sweep: Path) -> list[list[str]]:
    """What stood on the command lines that the members are of; none where that was not recorded."""
    return _read(sweep).get("commands", [])


def read_labels(sweep: Path) -> dict[str, str]:
    """What tables call keys that are swept, where it is not the last part of the key."""
    return _read(sweep).get("labels", {})


def heading(key: str, labels: Mapping[str, str]) -> str:
    """A configuration key as a column's heading: its label, or the last part of it; a mask's rate is named for it."""
    *parents, last = key.split(".")
    of_mask = f"{parents[-1]} mask " if last == "rate" and parents[:1] == ["mask"] else ""
    return labels.get(key) or of_mask + last.replace("_", " ")


def labels_of(members: Sequence[Member]) -> dict[str, str]:
    """As the members' sweeps have them."""
    sweeps = dict.fromkeys(member.folder.path.parent for member in members)
    return {key: label for sweep in sweeps for key, label in read_labels(sweep).items()}


def _read(sweep: Path) -> dict[str, Any]:
    path = sweep / MEMBERS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
