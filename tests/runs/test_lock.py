"""Who works in a run's folder: a living owner is respected, a dead one's lock is taken."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from filelock import FileLock

from masked_sae.runs.lock import DEAD_AFTER_SECONDS, HeldError, hold


@pytest.fixture(autouse=True)
def _watched_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masked_sae.runs.lock._WATCHED_SECONDS", 0.3)


def hold_for_long(lock: Path) -> None:
    with hold(lock):
        time.sleep(60)


def owner_of(lock: Path) -> Path:
    return lock.with_name(lock.name + ".owner")


def test_a_living_process_keeps_others_out_and_a_killed_one_does_not(tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".lock"
    process = multiprocessing.get_context("spawn").Process(target=hold_for_long, args=(lock,))
    process.start()
    while not owner_of(lock).exists():
        time.sleep(0.05)
    with pytest.raises(HeldError, match=f"held by process {process.pid} on "), hold(lock):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with hold(lock):
        assert json.loads(owner_of(lock).read_text())["pid"] == os.getpid()
    assert not owner_of(lock).exists()


@pytest.mark.parametrize(("silent_for", "free"), [(0.0, False), (DEAD_AFTER_SECONDS + 5, True)])
def test_an_owner_elsewhere_counts_as_alive_while_it_is_heard_of(tmp_path: Path, silent_for: float, free: bool) -> None:
    lock = tmp_path / ".lock"
    owner_of(lock).write_text(json.dumps({"host": "elsewhere", "pid": 7, "job_id": "42"}))
    heard = time.time() - silent_for
    os.utime(owner_of(lock), (heard, heard))
    if free:
        with hold(lock):
            pass
    else:
        with pytest.raises(HeldError, match="process 7 on elsewhere, SLURM job 42"), hold(lock):
            pass


@contextmanager
def touched(owner_file: Path, clock: float) -> Generator[None]:
    """By an owner that lives, where files have the date of its machine, whose clock is so many seconds off."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.02):
            os.utime(owner_file, (time.time() + clock,) * 2)

    beat = threading.Thread(target=touch)
    os.utime(owner_file, (time.time() + clock,) * 2)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()


@pytest.mark.parametrize("clock", [-300.0, 300.0])
@pytest.mark.parametrize("locked", [False, True])
def test_an_owner_that_touches_its_file_is_alive_whatever_its_clock(tmp_path: Path, clock: float, locked: bool) -> None:
    lock = tmp_path / ".lock"
    with FileLock(lock) if locked else nullcontext():
        owner_of(lock).write_text(json.dumps({"host": "elsewhere", "pid": 7, "job_id": None}))
        refused = pytest.raises(HeldError, match="process 7 on elsewhere")
        with touched(owner_of(lock), clock), refused, hold(lock):
            pass


def test_an_owner_file_that_cannot_be_read_is_nobodys(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    owner_of(lock).write_text("{")
    with hold(lock):
        assert json.loads(owner_of(lock).read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_requeued_job_takes_its_own_lock_from_another_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / ".lock"
    owner_of(lock).write_text(json.dumps({"host": "elsewhere", "pid": 7, "job_id": "42"}))
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with hold(lock):
        pass


def test_patience_waits_for_the_lock_to_be_free(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    owner_of(lock).write_text(json.dumps({"host": "elsewhere", "pid": 7, "job_id": None}))
    heard = time.time() - DEAD_AFTER_SECONDS + 1
    os.utime(owner_of(lock), (heard, heard))
    with hold(lock, patience=10):
        pass


def test_where_locks_outlive_a_dead_node_its_silence_frees_them(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    left = FileLock(lock)
    left.acquire()  # as a file system keeps it after the node is gone
    owner_of(lock).write_text(json.dumps({"host": "elsewhere", "pid": 7, "job_id": None}))
    with pytest.raises(HeldError), hold(lock):
        pass
    heard = time.time() - DEAD_AFTER_SECONDS - 1
    os.utime(owner_of(lock), (heard, heard))
    with hold(lock):
        pass
    left.release()
