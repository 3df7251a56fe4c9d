"""Processes that train together, kept for the tests of a file."""

import multiprocessing
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from masked_sae.training.rank_group import HERE, LONG, joined, open_store

_SPAWN = multiprocessing.get_context("spawn")


class Processes:
    """Attributes:
    count: how many there are.
    """

    def __init__(self, connections: list[Connection]) -> None:
        self.count, self._connections = len(connections), connections

    def call(self, name: str, *arguments: Any) -> list[Any]:
        """What a function of support/on_ranks.py gives on each of them."""
        for connection in self._connections:
            connection.send((name, arguments))
        came = [connection.recv() for connection in self._connections]
        errors = [one for one in came if isinstance(one, Exception)]
        if errors:
            raise errors[0]
        return came


@contextmanager
def processes(count: int) -> Generator[Processes]:
    store = open_store()
    pipes = [_SPAWN.Pipe() for _ in range(count)]
    started = [
        _SPAWN.Process(target=_serve, args=(store.port, rank, count, theirs), daemon=True)
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for process in started:
        process.start()
    try:
        yield Processes([ours for ours, _ in pipes])
    finally:
        for process in started:
            process.kill()
            process.join()


def _serve(port: int, rank: int, count: int, connection: Connection) -> None:
    from support import on_ranks

    torch.set_num_threads(1)
    store = dist.TCPStore(HERE, port, is_master=False, timeout=LONG)
    with joined(store, 0, rank, count, torch.device("cpu")) as (ranks, _):
        while True:
            name, arguments = connection.recv()
            try:
                connection.send(getattr(on_ranks, name)(ranks, *arguments))
            except Exception as error:  # noqa: BLE001 - the test's to look at
                connection.send(error)
