"""One process at a time works in a run's folder.

Two signs tell a living owner from a dead one. A `flock` (through `filelock`), which the kernel drops with its owner, is
the word on one machine. On other machines, where a file system may not carry locks, a file beside it counts: the owner
names itself there and touches it every few seconds, so one that has not been touched for long is a dead owner's. Of
several who would name themselves at once, one can.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from masked_sae.files import disk_time, give_name, write_new_json
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import slurm_job_id

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 60.0
# Some file systems date files by the clock of the machine that writes, which may be wrong by so much: until then an
# owner that seems dead is watched for a while before it is believed to be.
_CLOCKS_DIFFER_BY_SECONDS = 900.0
_WATCHED_SECONDS = 3 * HEARTBEAT_SECONDS


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


def silence(folder: RunFolder) -> timedelta:
    """How long ago a run gave its last sign of life: wrote its state, or touched its owner file.

    By the dates of files, and by the clock that gives them: what the run's machine writes of its time, and this one's
    clock, may be minutes apart.
    """
    heard = max((_date(path) for path in (folder.state, owner_file_of(folder.lock))), default=0.0)
    try:
        now = disk_time(folder.path)
    except OSError:  # nothing can be written there
        now = time.time()
    return timedelta(seconds=now - heard)


def is_anothers(lock: Path) -> bool:
    """Whether another process than this one has named itself beside a lock."""
    owner = _read(owner_file_of(lock))
    return owner is not None and owner != _this_process()


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
    owner_file, me = owner_file_of(lock), _this_process()
    held = FileLock(lock)
    try:
        _acquire(held, owner_file, me, time.monotonic() + patience)
        with _heard_of(owner_file, me):
            yield
    finally:
        held.release()


@dataclass(frozen=True)
class _Sign:
    """What an owner file says, and what tells it from the next.

    Attributes:
        owner: None where it cannot be read.
        touched: when, in nanoseconds, by the file system's clock.
    """

    owner: Owner | None
    touched: int
    inode: int


def _this_process() -> Owner:
    return Owner(socket.gethostname(), os.getpid(), slurm_job_id())


def _acquire(held: FileLock, owner_file: Path, me: Owner, deadline: float) -> None:
    while True:
        locked = _try(held)
        found = _look(owner_file)
        if found is not None and not _may_live(found, owner_file, me, locked):
            _take_away(owner_file, found)
            if not locked:  # a dead node's, where the file system keeps what was locked
                Path(held.lock_file).unlink(missing_ok=True)
                continue
            found = None
        if locked and found is None and _claim(owner_file, me):
            return
        held.release()
        if time.monotonic() >= deadline:
            holder = (found and found.owner) or _read(owner_file) or "a process that has only just taken it"
            raise HeldError(f"{owner_file.parent} is held by {holder}")
        time.sleep(1.0)


def _try(held: FileLock) -> bool:
    try:
        held.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _may_live(found: _Sign, owner_file: Path, me: Owner, locked: bool) -> bool:
    """Whether the owner named beside a lock may be alive, which we could take or not."""
    owner = found.owner
    if owner is None or owner.host == me.host:
        return not locked
    if me.job_id is not None and owner.job_id == me.job_id:
        return False
    silent_for = disk_time(owner_file.parent) - found.touched / 1e9
    if silent_for < DEAD_AFTER_SECONDS:
        return True
    return silent_for < _CLOCKS_DIFFER_BY_SECONDS and _changes(owner_file, found)


def _changes(owner_file: Path, found: _Sign) -> bool:
    """Whether the file is touched, replaced or removed while we watch."""
    deadline = time.monotonic() + _WATCHED_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_WATCHED_SECONDS / 15)
        if _look(owner_file) != found:
            return True
    return False


def _claim(owner_file: Path, me: Owner) -> bool:
    """Names this process beside its lock; tells whether nobody was sooner, on a machine that does not see our locks."""
    with suppress(FileExistsError, FileNotFoundError):  # the latter: who was sooner has removed all leftovers
        write_new_json(owner_file, asdict(me))
    return _read(owner_file) == me


def _take_away(owner_file: Path, dead: _Sign) -> None:
    """Removes a dead owner's file, and not that of one who was sooner to do so."""
    aside = owner_file.with_name(f"{owner_file.name}.{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        owner_file.rename(aside)
        if _look(aside) != dead:
            with suppress(FileExistsError):
                give_name(aside, owner_file)
        aside.unlink(missing_ok=True)


def _look(owner_file: Path) -> _Sign | None:
    """None where there is no file. It is opened before its date is read: a network file system then asks its server."""
    try:
        with owner_file.open(encoding="utf-8") as file:
            stat = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return _Sign(None, 0, 0)
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError):
        owner = None
    return _Sign(owner, stat.st_mtime_ns, stat.st_ino)


def _read(owner_file: Path) -> Owner | None:
    found = _look(owner_file)
    return None if found is None else found.owner


def _date(path: Path) -> float:
    try:
        with path.open() as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0


@contextmanager
def _heard_of(owner_file: Path, me: Owner) -> Generator[None]:
    """Touches the owner file while the block runs, and removes it after."""
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(owner_file, ended), daemon=True)
    try:
        beat.start()
        yield
    finally:
        ended.set()
        if beat.is_alive():
            beat.join()
        if _read(owner_file) == me:  # not another's, who works in a folder that took this one's place
            owner_file.unlink(missing_ok=True)


def _beat(owner_file: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        try:
            os.utime(owner_file)
        except OSError:
            continue  # a moment's trouble of a network file system
