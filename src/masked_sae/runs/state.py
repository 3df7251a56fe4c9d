"""What a run is doing: `state.json`, rewritten as a whole at every change."""

import errno
import json
import os
import socket
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from masked_sae.files import write_json

Status = Literal["created", "running", "preempted", "failed", "done"]


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


def slurm_job_id() -> str | None:
    """This process's job, as `squeue` and `scontrol` take it; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def read_state(path: Path) -> RunState | None:
    """The state in `path`, or None where there is none."""
    try:
        return RunState(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:  # replaced by another node while we read
            raise
        return RunState(**json.loads(path.read_text()))


def write_state(path: Path, state: RunState, **changes: Any) -> RunState:
    """Writes the state with these changes and this moment's time, host and process; returns it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    where = {"host": socket.gethostname(), "pid": os.getpid(), "job_id": slurm_job_id() or state.job_id}
    new = replace(state, **{"created": state.created or now, "updated": now, **where, **changes})
    write_json(path, asdict(new))
    return new
