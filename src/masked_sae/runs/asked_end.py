"""A member that is asked to end while others of its pack go on: a file in its folder, which its training looks for.

It works wherever the folder is seen: on this machine and on another node, of a job and of none.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from masked_sae.errors import DamagedFileError
from masked_sae.files import look_again, read_object, write_json
from masked_sae.runs.folder import RunFolder

EndStatus = Literal["cancelled", "pruned"]


@dataclass(frozen=True)
class AskedEnd:
    """Attributes:
    status: that the run's state is to have.
    why: one line, for its state.
    """

    status: EndStatus
    why: str


def ask_to_end(folder: RunFolder, status: EndStatus, why: str) -> None:
    """Has the run's training write a checkpoint after its step, end the run with this status, and go on with others."""
    write_json(folder.asked_end, asdict(AskedEnd(status, why)))


def asked_end(folder: RunFolder) -> AskedEnd | None:
    """What the run was asked for; None where it was asked for nothing."""
    look_again(folder.path)  # another machine may have asked
    try:
        found = read_object(folder.asked_end)
    except FileNotFoundError:
        return None
    except DamagedFileError:
        found = {}
    return AskedEnd("pruned" if found.get("status") == "pruned" else "cancelled", str(found.get("why", "")))


def forget_asked_end(folder: RunFolder) -> None:
    """For whoever takes the run up again."""
    folder.asked_end.unlink(missing_ok=True)
