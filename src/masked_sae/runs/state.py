"""What a run is doing: `state.json`, rewritten as a whole at every change."""

import errno
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from masked_sae.errors import DamagedFileError
from masked_sae.files import look_again, read_object, write_json

Status = Literal["created", "running", "preempted", "cancelled", "pruned", "failed", "done"]
ENDED = frozenset({"cancelled", "pruned", "failed", "done"})  # nobody goes on with it unasked


@dataclass(frozen=True)
class RunState:
    """Attributes:
    step, steps: optimizer steps done (as of the last checkpoint or log), and in all.
    tokens: activations trained on.
    seconds: spent in training, all attempts together, but for work lost with a kill.
    tokens_per_second: of the latest stretch.
    created, updated: UTC, ISO 8601.
    job_id: of SLURM, where there is one.
    error: one line, for failed and preempted runs.
    metrics: the latest training metrics.
    former_id: the id under which it began, if that was another; its W&B run is called by it.
    """

    run_id: str
    status: Status
    step: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    created: str = ""
    updated: str = ""
    host: str = ""
    pid: int = 0
    job_id: str | None = None
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    former_id: str | None = None


def slurm_job_id() -> str | None:
    """This process's job, as `squeue` and `scontrol` take it; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def read_state(path: Path) -> RunState | None:
    """The state in `path`, or None where there is none. Keys that another version wrote are passed over.

    Raises:
        DamagedFileError: it cannot be read, or is no state.
    """
    look_again(path.parent)  # for what else of the run is looked for now, too
    try:
        values = read_object(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:  # replaced by another node while we read
            raise
        values = read_object(path)
    wrong = [
        f"{name} is {values[name]!r:.60}" for name, fits in _FORM.items() if name in values and not fits(values[name])
    ]
    wrong += [f"no {name}" for name in ("run_id", "status") if name not in values]
    if wrong:
        raise DamagedFileError(path, ", ".join(wrong))
    return RunState(**{name: value for name, value in values.items() if name in _FORM})


_LARGEST = 2**53  # that every program counts exactly


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_amount(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _LARGEST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_moment(value: Any) -> bool:
    try:
        return value == "" or datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(one) for one in value.values())


_FORM: dict[str, Callable[[Any], bool]] = {
    "run_id": _is_text,
    "status": lambda value: value in get_args(Status),
    **dict.fromkeys(("step", "steps", "tokens", "pid"), _is_count),
    **dict.fromkeys(("seconds", "tokens_per_second"), _is_amount),
    **dict.fromkeys(("created", "updated"), _is_moment),
    "host": _is_text,
    **dict.fromkeys(("job_id", "error", "former_id"), _is_text_or_none),
    "metrics": _are_numbers,
}


def write_state(path: Path, state: RunState, **changes: Any) -> RunState:
    """Writes the state with these changes and this moment's time, host and process; returns it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    where = {"host": socket.gethostname(), "pid": os.getpid(), "job_id": slurm_job_id() or state.job_id}
    new = replace(state, **{"created": state.created or now, "updated": now, **where, **changes})
    write_json(path, asdict(new))
    return new
