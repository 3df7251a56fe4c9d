"""What the jobs of a member printed."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from masked_sae.errors import InputError
from masked_sae.runs.state import ENDED
from masked_sae.runs.sweep_record import Member
from masked_sae.sweeps.jobs import sent_jobs
from masked_sae.training.done import known_state

WORKERS = ".workers"  # of a sweep: the logs of this machine's workers
_LOOKS_EVERY_SECONDS = 0.5


def show_log(sweep: Path, member: Member, *, follow: bool, out: TextIO = sys.stdout) -> None:
    """Prints the logs of a member's jobs, oldest first.

    Args:
        follow: goes on with what is added until the member has ended.

    Raises:
        InputError: it has none: it was trained by a command, in whose terminal the lines are.
    """
    shown: dict[Path, int] = {}
    logs = _logs(sweep, member)
    if not logs and not follow:
        where = f"; those of workers are {sweep / WORKERS}/*.log" if (sweep / WORKERS).exists() else ""
        raise InputError("log", member.folder.run_id, f"a run whose jobs have printed something{where}")
    _print_more(logs, shown, out)
    while follow and not _has_ended(member):
        time.sleep(_LOOKS_EVERY_SECONDS)
        _print_more(_logs(sweep, member), shown, out)
    if follow:
        _print_more(_logs(sweep, member), shown, out)


def _logs(sweep: Path, member: Member) -> list[Path]:
    return [log for sent in sent_jobs(sweep).get(member.folder.run_id, []) for log in sent.logs()]


def _print_more(logs: Sequence[Path], shown: dict[Path, int], out: TextIO) -> None:
    """What was added to each since it was last looked at."""
    for log in logs:
        with log.open(encoding="utf-8", errors="replace", newline="") as file:
            if log not in shown and len(logs) > 1:
                out.write(f"==> {log} <==\n")
            file.seek(shown.get(log, 0))
            out.write(file.read())
            shown[log] = file.tell()
    out.flush()


def _has_ended(member: Member) -> bool:
    state = known_state(member.folder)
    return state is None or state.status in ENDED
