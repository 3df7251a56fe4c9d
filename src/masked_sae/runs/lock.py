"""One process at a time works in a run's folder.

Two signs tell a living owner from a dead one. A `flock` (through `filelock`), which the kernel drops with its owner, is
the word on one machine. On other machines, where a file system may not carry locks, a file beside it counts: the owner
names itself there and touches it every few seconds, so one that has not been touched for long is a dead owner's.
"""

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from masked_sae.files import write_json
from masked_sae.runs.state import slurm_job_id

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 60.0


@dataclass(frozen=True)
class Owner:
    host: str
    pid: int
    job_id: str | None

    def __str__(self) -> str:
        job = f", SLURM job {self.job_id}" if self.job_id else ""
        return f"process {self.pid} on {self.host}{job}"


class HeldError(RuntimeError):
    """Another process works in the folder; the message says which."""


def owner_file_of(lock: Path) -> Path:
    """Where the owner of a lock names itself, and shows by touching it that it lives."""
    return lock.with_name(lock.name + ".owner")


def silence(lock: Path, updated: str) -> timedelta:
    """How long ago a run gave its last sign of life: wrote its state, or touched its owner file.

    Args:
        updated: of its state, ISO 8601.
    """
    written = datetime.fromisoformat(updated) if updated else datetime.fromtimestamp(0, UTC)
    with suppress(FileNotFoundError):
        written = max(written, datetime.fromtimestamp(owner_file_of(lock).stat().st_mtime, UTC))
    return datetime.now(UTC) - written


def is_anothers(lock: Path) -> bool:
    """Whether another process than this one has named itself beside a lock."""
    owner = _read(owner_file_of(lock))
    return owner is not None and owner != Owner(socket.gethostname(), os.getpid(), slurm_job_id())


@contextmanager
def hold(lock: Path, patience: float = 0.0) -> Generator[None]:
    """Holds the folder's lock while the block runs; makes the folder where there is none.

    Args:
        lock: the lock file.
        patience: seconds to wait for the lock, in a job that follows on one that was killed.

    Raises:
        HeldError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    owner_file = owner_file_of(lock)
    me = Owner(socket.gethostname(), os.getpid(), slurm_job_id())
    held = FileLock(lock)
    deadline = time.monotonic() + patience
    _acquire(held, owner_file, me, deadline)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(owner_file, ended), daemon=True)
    try:
        write_json(owner_file, asdict(me))
        beat.start()
        yield
    finally:
        ended.set()
        if beat.is_alive():
            beat.join()
        if _read(owner_file) == me:  # not another's, who works in a folder that took this one's place
            owner_file.unlink(missing_ok=True)
        held.release()


def _acquire(held: FileLock, owner_file: Path, me: Owner, deadline: float) -> None:
    while True:
        try:
            held.acquire(timeout=0)
        except Timeout:
            owner = _read(owner_file)
            holder = owner or "a process that has only just taken it"
            if owner is not None and owner.host != me.host and _living(owner_file, me) is None:
                owner_file.unlink(missing_ok=True)  # a dead node's, where the file system keeps what was locked
                Path(held.lock_file).unlink(missing_ok=True)
                continue
        else:
            holder = _living(owner_file, me)
            if holder is None:
                return
            held.release()
        if time.monotonic() >= deadline:
            raise HeldError(f"{owner_file.parent} is held by {holder}")
        time.sleep(1.0)


def _living(owner_file: Path, me: Owner) -> Owner | None:
    """The owner named beside a lock that we could take, if it may live all the same: on another machine."""
    owner = _read(owner_file)
    if owner is None or owner.host == me.host or (me.job_id is not None and owner.job_id == me.job_id):
        return None
    with tempfile.NamedTemporaryFile(dir=owner_file.parent) as now:  # by the file system's clock, not this machine's
        try:
            silent_for = Path(now.name).stat().st_mtime - owner_file.stat().st_mtime
        except FileNotFoundError:
            return None
    return owner if silent_for < DEAD_AFTER_SECONDS else None


def _read(owner_file: Path) -> Owner | None:
    try:
        return Owner(**json.loads(owner_file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _beat(owner_file: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        try:
            os.utime(owner_file)
        except OSError:
            continue  # a moment's trouble of a network file system
