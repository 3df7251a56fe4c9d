"""Packs: members of a sweep that are trained together, from one forward of the LM for all.

make_packs      which runs
train_members   how they ended, whatever befell one of them or this machine's memory
"""

import gc
import math
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from masked_sae.command_line import explain
from masked_sae.errors import InputError, notice, one_line, printable
from masked_sae.exhaustion import is_of_memory
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import HeldError, is_anothers
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState, write_state
from masked_sae.sweeps.summary import find_state
from masked_sae.tracking.sweep import log_sweep
from masked_sae.training.assemble import find_device
from masked_sae.training.memory import available_bytes, bytes_for_each, gib, pack_bytes
from masked_sae.training.threads import own_threads
from masked_sae.training.train_pack import Outcome, train_pack

Fits = Callable[[Sequence[Run]], bool]
_AUTO = "auto"
_MARGIN = 0.8  # of the memory that there is: what `auto` uses at most, by its estimate
_MOST_UNTOLD = 8  # members of a pack of `auto`, where nothing tells the memory of the machine that will train it
_LINE = 80  # columns
NO_CODES: Mapping[Path, str] = MappingProxyType({})
_OF_GPUS = ("gpu", "gres")  # in the names of SLURM's settings


def make_packs(
    runs: Sequence[Run], fits: Fits, workers: int = 1, codes: Mapping[Path, str] = NO_CODES
) -> list[list[Run]]:
    """Runs that can share forwards, together, in their order and in packs of even sizes.

    `pack=N` is how many at most. With `pack=auto` packs are as large as fits, but there are as many as workers where
    there are runs for it.

    Args:
        fits: whether the machine that will train these together can hold them.
        workers: jobs that can run at one time.
        codes: by the folder of each run, the code that it is to be trained with, where that is not the one at hand.
    """
    groups: dict[Hashable, list[Run]] = {}
    seen = Counter[Path]()
    for run in runs:
        seen[run.folder.path] += 1  # of two that differ in what is in no id, one has to wait for the other
        groups.setdefault((_shared_by(run), codes.get(run.folder.path), seen[run.folder.path]), []).append(run)
    found = [_split(group, 1, fits) for group in groups.values()]
    while sum(map(len, found)) < workers:
        divisible = [packs for packs in found if _bound(packs) is None and len(packs[0]) > 1]
        if not divisible:
            break
        largest = max(divisible, key=lambda packs: len(packs[0]))
        largest[:] = _split([run for pack in largest for run in pack], len(largest) + 1, fits)
    return [pack for packs in found for pack in packs]


def _shared_by(run: Run) -> Hashable:
    """What the runs of a pack have in common."""
    trainer = run.config.trainer
    if run.shares is None:
        return run.folder.path
    own = own_threads(None if run.config.force else run.folder, trainer.threads)
    return run.shares.forwards, own, run.config.placing, trainer.threads, run.config.pack


def _bound(packs: Sequence[Sequence[Run]]) -> int | None:
    """How many runs may be in one of these packs; None where memory decides."""
    pack = packs[0][0].config.pack
    return None if pack == _AUTO else int(pack)


def _split(group: Sequence[Run], least: int, fits: Fits) -> list[list[Run]]:
    """In so many packs or more, as few as will do."""
    bound = _bound([group])
    if bound is not None:
        return _evenly(group, math.ceil(len(group) / bound))
    tried = (_evenly(group, count) for count in range(least, len(group)))
    return next((packs for packs in tried if all(map(fits, packs))), [[run] for run in group])


def _evenly(runs: Sequence[Run], count: int) -> list[list[Run]]:
    size, larger = divmod(len(runs), count)
    ends = [size * (number + 1) + min(number + 1, larger) for number in range(count)]
    return [list(runs[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def fits_here(runs: Sequence[Run]) -> bool:
    """Whether this machine can hold these together; one always counts as fitting."""
    trainer = runs[0].config.trainer
    return len(runs) == 1 or _fits(runs, bytes_for_each(find_device(trainer.device), trainer))


def fits_side_by_side(workers: int) -> Fits:
    """Whether each of so many processes on this machine can hold runs together; the GPUs are dealt out among them."""

    def fits(runs: Sequence[Run]) -> bool:
        return len(runs) == 1 or _fits(runs, _share_of_memory(runs[0], workers))

    return fits


def _share_of_memory(run: Run, workers: int) -> int:
    device, trainer = find_device(run.config.trainer.device), run.config.trainer
    if device.type != "cuda":
        return bytes_for_each(device, trainer) // workers
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return min(map(available_bytes, gpus)) // math.ceil(workers * trainer.devices / len(gpus))


def most_side_by_side(runs: Sequence[Run]) -> int:
    """How many of the largest of these runs, each alone, this machine's memory holds at one time."""
    needed = max(pack_bytes([run.config]) * run.config.trainer.devices for run in runs)
    return int(_MARGIN * available_bytes(torch.device("cpu"))) // needed


def fits_in_job(settings: Mapping[str, Any]) -> Fits:
    """Whether a SLURM job of these settings can hold runs together, as far as they tell."""
    memory, more = settings.get("mem_gb"), settings.get("additional_parameters") or {}
    named = {str(key): value for key, value in {**settings, **more}.items() if value}
    on_gpu = any(part in key for key in named for part in _OF_GPUS)

    def fits(runs: Sequence[Run]) -> bool:
        if not isinstance(memory, (int, float)) or on_gpu or runs[0].config.trainer.device == "cuda":
            return len(runs) <= _MOST_UNTOLD
        return len(runs) == 1 or _fits(runs, int(memory * 2**30) // runs[0].config.trainer.devices)

    return fits


def _fits(runs: Sequence[Run], available: int) -> bool:
    margin = _MARGIN if runs[0].config.pack == _AUTO else 1.0  # who gives a number may know better than an estimate
    return pack_bytes([run.config for run in runs]) <= margin * available


def label_of(pack: Sequence[Run]) -> str:
    """What a line calls a pack: `mask.token.rate=0.1, sae.k=8,16,32`, as its settings could stand on a command line
    where that says it all; else by its first member.
    """
    first, *others = pack
    if not others:
        return printable(first.label)
    values = {key: list(dict.fromkeys(run.swept.get(key, "") for run in pack)) for key in first.swept}
    together = ", ".join(f"{key}={','.join(given)}" for key, given in values.items())
    if math.prod(map(len, values.values())) == len(pack) and len(together) <= _LINE - len("[000-000/000] "):
        return printable(together)
    return printable(f"{first.label} and {len(others)} more")


def train_members(runs: Sequence[Run], patience: float = 0.0) -> list[RunState | None]:
    """Trains the members of a pack; whatever befalls one ends in its state, and the others go on.

    A pack that is too large for this machine is trained in halves, one after the other.

    Args:
        patience: see `train_pack`.

    Returns:
        How each ended, in order: `done`, `failed`, `preempted`, or as it was asked to; None of one that another process
        is at, or that was not begun when a signal came.
    """
    before = [_written(run.folder) for run in runs]
    ended = _train(runs, patience)
    measured = [run for run, then in zip(runs, before, strict=True) if _written(run.folder) != then]
    for sweep, wandb in {run.folder.path.parent: run.config.logger.wandb for run in measured}.items():
        log_sweep(sweep, wandb)
    return [ended.get(run.folder.path) for run in runs]


_Ended = dict[Path, RunState | None]


def _train(runs: Sequence[Run], patience: float) -> _Ended:
    if len(runs) > 1 and _is_too_large(runs):
        return _train_halves(runs, patience)
    ended, ran_out = _attempt(runs, patience)
    if not ran_out:
        return ended
    if any(state is not None and state.status == "preempted" for state in ended.values()):
        return ended | {run.folder.path: _put_off(run) for run in ran_out}
    gc.collect()
    torch.cuda.empty_cache()
    notice(f"{label_of(ran_out)}: out of memory in a pack of {len(runs)}: trained on in smaller ones")
    return ended | _train_halves(ran_out, patience)


def _is_too_large(runs: Sequence[Run]) -> bool:
    try:
        if fits_here(runs):
            return False
        available = bytes_for_each(find_device(runs[0].config.trainer.device), runs[0].config.trainer)
    except InputError:
        return False  # each member's training says what is wrong
    needed = pack_bytes([run.config for run in runs])
    notice(f"{label_of(runs)}: a pack of about {gib(needed)}, and here are {gib(available)}: trained in halves")
    return True


def _train_halves(runs: Sequence[Run], patience: float) -> _Ended:
    ended: _Ended = {}
    for half in _evenly(runs, min(2, len(runs))):
        ended |= _train(half, patience)
        if any(state is not None and state.status == "preempted" for state in ended.values()):
            break
    return ended


def _attempt(runs: Sequence[Run], patience: float) -> tuple[_Ended, list[Run]]:
    """How members ended; and those for which the memory did not do, though it may for fewer.

    The errors, which hold on to what was in memory, are gone when it returns.
    """
    concluded: list[Outcome] = []
    ran_out: list[Run] = []
    for outcome in train_pack(runs, patience):
        if len(runs) > 1 and is_of_memory(outcome.error):
            ran_out.append(outcome.run)
        else:
            concluded.append(outcome)
    for error in {id(one.error): one.error for one in concluded}.values():
        if error is not None and not isinstance(error, HeldError) and explain(error) is None:
            traceback.print_exception(error)
    return {one.run.folder.path: _conclude(one) for one in concluded}, ran_out


def _conclude(outcome: Outcome) -> RunState | None:
    folder, error = outcome.run.folder, outcome.error
    if error is None:
        return outcome.state
    if isinstance(error, HeldError):
        print(error, flush=True)
        return None
    if is_anothers(folder.lock):
        return None  # who began anew where the folder was deleted
    return write_state(folder.state, _begun(folder), status="failed", error=explain(error) or one_line(error))


def _put_off(run: Run) -> RunState:
    why = "out of memory beside others, when a signal came; goes on with the pack"
    return write_state(run.folder.state, _begun(run.folder), status="preempted", error=why)


def _begun(folder: RunFolder) -> RunState:
    state = find_state(folder)
    return state if isinstance(state, RunState) else RunState(folder.run_id, "failed")


def _written(folder: RunFolder) -> int | None:
    """When its results were, in nanoseconds."""
    return folder.results.stat().st_mtime_ns if folder.results.exists() else None
