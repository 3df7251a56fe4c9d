"""The jobs that a command would have, and what each would find where it trains. Nothing is begun."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from masked_sae.runs.run import Run
from masked_sae.sweeps.machine import auto_workers, gpus_for, most_devices
from masked_sae.sweeps.packs import Fits, fits_here, fits_in_job, fits_side_by_side, make_packs
from masked_sae.training.assemble import find_device
from masked_sae.training.done import is_left_out
from masked_sae.training.memory import available_bytes

_HERE_IS_NO_GPU = "trainer.device=cuda, and this machine has none"


@dataclass(frozen=True)
class Place:
    """Where a job trains, as far as is known.

    Attributes:
        memory: bytes of the device, or on a CPU for each process that trains there; None where nothing tells: `unknown`
            says why.
        at_once: jobs that train side by side; None where nothing tells.
        here: whether it is this machine.
    """

    on_cuda: bool
    memory: int | None
    unknown: str = ""
    at_once: int | None = 1
    here: bool = True


@dataclass(frozen=True)
class Foreseen:
    """Attributes:
    packs: one for each job.
    done: members that nothing is left of.
    begun: of those in packs, that have a folder with a state.
    times: how often each job comes: of a search more than once.
    """

    packs: list[list[Run]]
    place: Place
    done: int = 0
    begun: int = 0
    times: int = 1


def jobs_here(runs: Sequence[Run]) -> Foreseen:
    """One after another, in this process."""
    left = _left(runs)
    place = _of_this_machine(left)
    return _foreseen(runs, left, fits_here if place.memory is not None else fits_in_job({}), place)


def jobs_on_workstation(runs: Sequence[Run], workers: int | None) -> Foreseen:
    """Side by side, in processes of this machine.

    Args:
        workers: None: as many as this machine has room for.
    """
    left = _left(runs)
    here = _of_this_machine(left)
    if here.memory is None or not left:
        count = workers or 1
        return _foreseen(runs, left, fits_in_job({}), Place(here.on_cuda, None, here.unknown, workers), count)
    gpus = gpus_for(left)
    count = workers or auto_workers(left, gpus)
    share = here.memory // -(-count * most_devices(left) // len(gpus)) if gpus else here.memory // count
    return _foreseen(runs, left, fits_side_by_side(count), Place(here.on_cuda, share, at_once=count), count)


def jobs_on_slurm(runs: Sequence[Run], settings: Mapping[str, Any]) -> Foreseen:
    """As the launcher's settings have them."""
    left = _left(runs)
    at_once, memory = settings.get("array_parallelism"), settings.get("mem_gb")
    asked = {**settings, **(settings.get("additional_parameters") or {})}
    gpus = any(value for key, value in asked.items() if "gpu" in str(key) or "gres" in str(key))
    devices = {run.config.trainer.device for run in left}
    if gpus or devices == {"cuda"}:
        place = Place(True, None, "which GPU a job gets", at_once, here=False)
    elif isinstance(memory, (int, float)):
        place = Place(False, int(memory * 2**30) // most_devices(left or runs), at_once=at_once, here=False)
    else:
        place = Place(False, None, "what a job may use: hydra.launcher.mem_gb is null", at_once, here=False)
    return _foreseen(runs, left, fits_in_job(settings), place, at_once or 1)


def of_search(member: Foreseen, trials: int, at_once: int) -> Foreseen:
    """Its members are drawn as it goes: each is taken for the one with the first values.

    Args:
        member: the job of that one.
        at_once: members that are drawn and trained together.
    """
    side_by_side = member.place.at_once
    return replace(
        member,
        place=replace(member.place, at_once=None if side_by_side is None else min(at_once, side_by_side)),
        times=trials,
    )


def _foreseen(runs: Sequence[Run], left: Sequence[Run], fits: Fits, place: Place, workers: int = 1) -> Foreseen:
    begun = sum(run.folder.state.exists() for run in left)
    return Foreseen(make_packs(left, fits, workers), place, len(runs) - len(left), begun)


def _of_this_machine(runs: Sequence[Run]) -> Place:
    asked = {run.config.trainer.device for run in runs}
    if "cuda" in asked and not torch.cuda.is_available():
        return Place(True, None, _HERE_IS_NO_GPU)
    device = find_device("cpu" if asked == {"cpu"} else "auto")
    shared_by = most_devices(runs) if runs and device.type == "cpu" else 1
    return Place(device.type == "cuda", available_bytes(device) // shared_by)


def _left(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if not is_left_out(run)]
