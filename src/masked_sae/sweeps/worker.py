"""A worker: a process that trains one pack after another for the command that started it.

Nothing heavy is imported here: where its output goes, which GPU it sees and what signals do is settled first.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tqdm import tqdm

from masked_sae.training.stop_signals import SIGNALS

_STDOUT, _STDERR = 1, 2


@dataclass(frozen=True)
class Place:
    """Where a worker works.

    Attributes:
        log: what it prints is added to this file.
        gpu: the only one that it sees, or the only ones, as CUDA_VISIBLE_DEVICES names them; None: it sees what its
            parent does.
    """

    number: int
    log: Path
    gpu: str | None = None


def work(place: Place, parent: Connection) -> None:
    """Trains each pack that comes, and sends back how its members ended, until no more come or it is told to stop.

    It is started with the signals that stop training blocked, so that none is lost before there is somebody to heed it.
    """
    _print_to(place.log)
    if place.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells us
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while training: see `training/stop_signals.py`
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _stop_with_parent()
    tqdm.set_lock(threading.RLock())  # its own has a semaphore, of which Python complains where the worker is killed
    with suppress(KeyboardInterrupt, EOFError, ConnectionError):
        while True:
            _train_next(parent)


def _train_next(parent: Connection) -> None:
    pack = parent.recv()
    from masked_sae.sweeps.packs import label_of, train_members  # which the pack has read in by now

    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}: {label_of(pack)}", flush=True)
    parent.send(train_members(pack))


def _print_to(log: Path) -> None:
    """Everything, libraries' words and crashes too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        for stream in (_STDOUT, _STDERR):
            os.dup2(file.fileno(), stream)
    sys.stdout = open(_STDOUT, "w", buffering=1, closefd=False)  # noqa: SIM115 - line by line, though it is no terminal


def _stop_with_parent() -> None:
    """A parent that was killed tells nobody; its end of a pipe is closed all the same."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
