"""What this machine has for workers: CPUs, memory, GPUs."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from masked_sae.errors import InputError
from masked_sae.runs.run import Run
from masked_sae.sweeps.packs import most_side_by_side
from masked_sae.training.assemble import find_device
from masked_sae.training.threads import own_threads

_CGROUPS = Path("/sys/fs/cgroup")


def auto_workers(runs: Sequence[Run], gpus: Sequence[str]) -> int:
    """One for each GPU, or for as many as train together; without, as many as have CPUs for their threads and memory
    for the largest run, and at least one.
    """
    if gpus:
        return max(1, len(gpus) // most_devices(runs))
    threads = max(
        run.config.trainer.devices
        * (run.config.trainer.threads or own_threads(None if run.config.force else run.folder, None))
        for run in runs
    )
    return max(1, min(count_cpus() // threads, most_side_by_side(runs)))


def most_devices(runs: Sequence[Run]) -> int:
    """That a worker needs."""
    return max(run.config.trainer.devices for run in runs)


def dealt_out(gpus: Sequence[str], workers: int, each: int) -> list[str | None]:
    """The GPUs of each of so many workers, as its CUDA_VISIBLE_DEVICES names them; None where it sees what there is.

    Args:
        each: how many a worker needs.

    Raises:
        InputError: there are fewer than that.
    """
    if not gpus:
        return [None] * workers
    if len(gpus) < each:
        raise InputError("trainer.devices", each, f"at most {len(gpus)}, the GPUs that are here")
    places = len(gpus) // each
    return [",".join(gpus[number % places * each :][:each]) for number in range(workers)]


def gpus_for(runs: Sequence[Run]) -> list[str]:
    """The GPUs that this process sees, each as a worker's CUDA_VISIBLE_DEVICES names it; none where no run is for one.

    Raises:
        InputError: a run asks for a GPU, and there is none.
    """
    lms = {run.config.lm.device or run.config.lm.device_map or "cpu" for run in runs}
    if lms == {"cpu"} and all(find_device(run.config.trainer.device).type == "cpu" for run in runs):
        return []
    return name_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count())


def name_gpus(visible: str | None, count: int) -> list[str]:
    """The first so many of the GPUs, as CUDA counts them.

    Args:
        visible: CUDA_VISIBLE_DEVICES: numbers, or (the beginnings of) UUIDs, of GPUs or their MIG parts.
        count: how many CUDA found.
    """
    if visible is None:
        return [str(number) for number in range(count)]
    return [name.strip() for name in visible.split(",")][:count]


def count_cpus(cgroups: Path = _CGROUPS) -> int:
    """Those that this process may use, and no more than a container's share of the time is worth."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroups)
    return cpus if quota is None else max(1, min(cpus, math.floor(quota)))


def _cpu_quota(cgroups: Path) -> float | None:
    """In CPUs; None where a container may use all their time."""
    both_of_v1 = (cgroups / "cpu" / "cpu.cfs_quota_us", cgroups / "cpu" / "cpu.cfs_period_us")
    for files in ((cgroups / "cpu.max",), both_of_v1):
        try:
            quota, period = (int(word) for file in files for word in file.read_text().split())
        except (OSError, ValueError):  # none here, or `max`
            continue
        if quota > 0:
            return quota / period
    return None
