"""The first of several processes that train together: it starts or finds the others (`training/follow.py`), tells them
what to train, and alone reads and writes runs' folders.
"""

import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist

from masked_sae.errors import ExhaustedError, InputError, first_line
from masked_sae.ranks import ALONE, Ranks
from masked_sae.training.rank_group import HERE, is_of_a_peer, joined, open_store, store_of_job, task_of_job, tell
from masked_sae.training.stop_signals import how_it_ended

FOLLOWER = "masked_sae.training.follow"
_LOOKS_EVERY_SECONDS = 0.05
_SLOWEST_SECONDS = 900.0  # that a process may take to import what it needs
_LAST_WORDS_SECONDS = 5.0
_GOODBYE_SECONDS = 10.0


class RankError(RuntimeError):
    """What befell another of the processes, which ended all."""


class Followers:
    """The other processes, as the first sees them. They import libraries while it still reads the text.

    Args:
        count: of all, the first included.
        processes: those that were started here; none where SLURM did it.
    """

    def __init__(self, store: dist.Store, count: int, processes: Sequence["subprocess.Popen[bytes]"] = ()) -> None:
        self._store, self._count, self._processes = store, count, processes

    @contextmanager
    def training(self, task: Mapping[str, Any], device: torch.device) -> Generator[tuple[Ranks, Ranks]]:
        """Has them train a pack with this process: the block does its part of it.

        Args:
            task: what `follow.Task` says.

        Raises:
            RankError, ExhaustedError: one of them failed.
        """
        number = self._hand_on(task)
        try:
            self._wait_for_all(number)
            with joined(self._store, number, 0, self._count, device) as ranks:
                yield ranks
        except Exception as error:
            if not is_of_a_peer(error):
                raise
            said = self._last_words(number) or f"one of {self._count} processes has gone ({first_line(error)})"
            raise _as_error(said) from error

    def dismiss(self) -> None:
        """Ends them."""
        self._hand_on(None)
        for process in self._processes:
            try:
                process.wait(_GOODBYE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _hand_on(self, task: Mapping[str, Any] | None) -> int:
        """The number that it has; None: there is no other."""
        number = self._store.add("tasks", 1) - 1
        tell(self._store, f"task/{number}", task)
        return number

    def _wait_for_all(self, number: int) -> None:
        deadline = time.monotonic() + _SLOWEST_SECONDS
        missing = [f"here/{number}/{rank}" for rank in range(1, self._count)]
        while not self._store.check(missing):
            if (said := self._last_words(number, patience=0.0)) is not None:
                raise _as_error(said)
            if time.monotonic() > deadline:
                raise RankError(f"not all of {self._count} processes came within {_SLOWEST_SECONDS:.0f} s")
            time.sleep(_LOOKS_EVERY_SECONDS)

    def _last_words(self, number: int, patience: float = _LAST_WORDS_SECONDS) -> str | None:
        """What a process that failed had to say; None if none did."""
        deadline = time.monotonic() + patience
        while True:
            for rank in range(1, self._count):
                if self._store.check([f"error/{number}/{rank}"]):
                    return f"rank {rank}: {self._store.get(f'error/{number}/{rank}').decode()}"
            for rank, process in enumerate(self._processes, start=1):
                if process.poll():
                    return f"rank {rank}: its process {how_it_ended(process.returncode)}"
            if time.monotonic() > deadline:
                return None
            time.sleep(_LOOKS_EVERY_SECONDS)


def _as_error(said: str) -> Exception:
    """Of memory, as of one process: a pack is tried again in smaller ones."""
    return ExhaustedError(said) if "out of memory" in said else RankError(said)


@contextmanager
def followers(devices: int, nodes: int, kind: str) -> Generator[Followers | None]:
    """The processes that train with this one, `devices` on each of `nodes`; None where it is alone.

    In a SLURM job they are its other tasks, which stay for the next pack; elsewhere they are started here, and end with
    the block.

    Args:
        kind: of the devices, as torch calls it.

    Raises:
        InputError: a job has another number of tasks, or there is no job to have nodes.
    """
    count = devices * nodes
    tasks = task_of_job()[1]
    if tasks > 1:
        if count != tasks:
            valid = f"{tasks} with trainer.nodes={nodes}: so many tasks has the job"
            raise InputError("trainer.devices", devices, valid)
        yield Followers(store_of_job(), count)
        return
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise InputError("trainer.devices", devices, f"at most {torch.cuda.device_count()}, the GPUs that are here")
    if nodes > 1:
        raise InputError("trainer.nodes", nodes, "1 outside of a SLURM job (hydra/launcher=slurm)")
    if count == 1:
        yield None
        return
    store = open_store()
    with ExitStack() as started:
        processes = [_start(started, store.port, rank, count) for rank in range(1, count)]
        found = Followers(store, count, processes)
        yield found
        found.dismiss()


def dismiss_tasks() -> None:
    """Ends the other tasks of this job, where it has any."""
    count = task_of_job()[1]
    if count > 1:
        Followers(store_of_job(), count).dismiss()


@contextmanager
def group_of(found: Followers | None, task: Mapping[str, Any], device: torch.device) -> Generator[tuple[Ranks, Ranks]]:
    """See `Followers.training`; of nobody but this process where there are none."""
    if found is None:
        yield ALONE, ALONE
        return
    with found.training(task, device) as ranks:
        yield ranks


def _start(started: ExitStack, port: int, rank: int, count: int) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-m", FOLLOWER, HERE, str(port), str(rank), str(count)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # what it has to say it tells the first, and what they all say the first says
    )
    started.callback(process.wait)
    started.callback(process.kill)
    return process
