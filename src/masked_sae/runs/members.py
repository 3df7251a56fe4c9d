"""A sweep's folder: which runs belong to it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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


def record_members(sweep: Path, members: list[Member]) -> None:
    """Adds to the members that the sweep's folder knows: one whose folder is gone is then missed, not forgotten."""
    sweep.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep / ".sweep.lock"):
        known = {member.folder.run_id: dict(member.swept) for member in [*read_members(sweep), *members]}
        write_json(sweep / MEMBERS, {"members": known})


def read_members(sweep: Path) -> list[Member]:
    """Those on record, and any other run that lies in the folder; by name where no record says otherwise."""
    path = sweep / MEMBERS
    recorded: dict[str, dict[str, str]] = json.loads(path.read_text())["members"] if path.exists() else {}
    found = sorted(state.parent.name for state in sweep.glob("*/state.json"))
    swept = {name: {} for name in found} | recorded
    order = [*recorded, *(name for name in found if name not in recorded)]
    return [Member(RunFolder(sweep / name), swept[name]) for name in order]
