"""How processes that train together find each other: through a store that the first one has, and torch's groups.

Nothing that comes through the store is unpickled: what is told is JSON.
"""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from masked_sae.ranks import Ranks

HERE = "127.0.0.1"
LONG = timedelta(days=2)  # whoever is gone closes a connection, which is noticed at once
_ARRIVAL = timedelta(minutes=15)  # of all tasks of a job: some nodes are slow to import


def open_store() -> dist.TCPStore:
    """The first one's, at a free port of this machine."""
    return dist.TCPStore(HERE, 0, is_master=True, wait_for_workers=False, timeout=LONG)


@cache
def store_of_job() -> dist.TCPStore:
    """The one store that the tasks of a SLURM job share, at the port that its id gives."""
    from lightning_fabric.plugins.environments import SLURMEnvironment

    environment = SLURMEnvironment(auto_requeue=False)
    address, port = environment.main_address, environment.main_port
    return dist.TCPStore(address, port, is_master=task_of_job()[0] == 0, wait_for_workers=False, timeout=_ARRIVAL)


def task_of_job() -> tuple[int, int]:
    """Which of the tasks of a job that the launcher sent this process is, and how many there are; elsewhere the only
    one, whatever else SLURM started.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return 0, 1
    return int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


@contextmanager
def joined(
    store: dist.Store, number: int, rank: int, count: int, device: torch.device
) -> Generator[tuple[Ranks, Ranks]]:
    """A group of all, for the steps; and another one, for the stream of activations.

    Args:
        number: of the task that the group is for: each has its own.
    """
    if device.type == "cpu":
        backend = "gloo"
    else:
        backend = f"cpu:gloo,{device.type}:nccl"
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, store=dist.PrefixStore(f"group/{number}", store), rank=rank, world_size=count, timeout=LONG
    )
    try:
        yield Ranks(rank, count), Ranks(rank, count, dist.new_group(timeout=LONG))
    finally:
        dist.destroy_process_group()


def is_of_a_peer(error: BaseException) -> bool:
    """Whether it only says that another process has left: what befell that one is its own to tell."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def tell(store: dist.Store, key: str, plain: Any) -> None:
    store.set(key, json.dumps(plain))


def hear(store: dist.Store, key: str) -> Any:
    """What is told there, once it is."""
    store.wait([key], LONG)
    return json.loads(store.get(key))
