"""What SLURM's own commands say and do: the queue, the limits, the end of jobs.

Accounting (`sacct`) is not asked: many clusters lack it.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

from masked_sae.errors import InputError, one_line

_SQUEUE_ATTEMPTS = 8
_SECONDS = 60
_UNLIMITED_MINUTES = 365 * 24 * 60  # submitit wants a number
_ARRAY_SIZE = 1001  # SLURM's own default
_OUT_OF_MEMORY = re.compile(r"^(slurmstepd|srun): error: .*(\boom[_-]kill|OOM Killed|Out Of Memory)", re.MULTILINE)


def queued_jobs(*, pending: bool = False) -> set[str]:
    """The user's jobs that are pending, running or about to end; or those alone that are pending.

    Raises:
        InputError: there is no SLURM here.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i", "--me", *(["--states=PENDING"] if pending else [])]
    for attempt in range(_SQUEUE_ATTEMPTS):
        try:
            return set(_said(command).split())
        except FileNotFoundError:
            raise InputError("hydra/launcher", "slurm", "a machine with SLURM's commands (no squeue here)") from None
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"squeue failed, trying again: {getattr(error, 'stderr', '') or error}", file=sys.stderr)
            time.sleep(2.0**attempt)
    raise InputError("hydra/launcher", "slurm", "a SLURM controller that answers squeue")


def cancel_jobs(ids: Iterable[str]) -> str:
    """Has SLURM end these jobs, with a signal first. Returns what stood in the way; nothing where nothing did."""
    wanted = list(ids)
    try:
        for start in range(0, len(wanted), 500):  # a command line has an end
            _said(["scancel", *wanted[start : start + 500]])
    except (OSError, subprocess.SubprocessError) as error:
        return str(getattr(error, "stderr", "") or one_line(error)).strip()
    return ""


def says_memory_ran_out(log: str) -> bool:
    """Whether SLURM's lines in what a job printed tell that the kernel ended it for want of memory."""
    return _OUT_OF_MEMORY.search(log) is not None


def ended_for_memory(job: str) -> bool:
    """Whether the controller, which forgets a job after some minutes, knows that it ended for want of memory."""
    return "JobState=OUT_OF_MEMORY" in _asked(["scontrol", "show", "job", job])


def most_in_an_array() -> int:
    """Jobs that an array of this cluster may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _asked(["scontrol", "show", "config"]), re.MULTILINE)
    return int(found[1]) if found else _ARRAY_SIZE


def partition_minutes(partitions: str | None) -> int:
    """The time limit of jobs that ask for none: the least of these partitions'; the default one's if none is named."""
    limits = [_minutes(one) for one in _partitions(partitions)]
    return min(limits, default=_UNLIMITED_MINUTES)


def _partitions(names: str | None) -> list[dict[str, str]]:
    lines = _asked(["scontrol", "show", "partition", "--oneliner"]).splitlines()
    found = [{key: value for key, _, value in (word.partition("=") for word in line.split())} for line in lines]
    if names is None:
        return [one for one in found if one.get("Default") == "YES"]
    return [one for one in found if one.get("PartitionName") in names.split(",")]


def _minutes(partition: dict[str, str]) -> int:
    """Of `DefaultTime`, or `MaxTime` where there is none: written as `days-hours:minutes:seconds`."""
    given = next((partition.get(key, "NONE") for key in ("DefaultTime", "MaxTime") if partition.get(key) != "NONE"), "")
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", given)
    if found is None:
        return _UNLIMITED_MINUTES
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return max(1, (days * 24 + hours) * 60 + minutes)


def _asked(command: Sequence[str]) -> str:
    try:
        return _said(command)
    except (OSError, subprocess.SubprocessError):
        return ""  # what has to work is said where jobs are submitted


def _said(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
