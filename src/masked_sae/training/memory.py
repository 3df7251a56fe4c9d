"""What training needs of memory, and what there is: a run that cannot be held is refused before long work, and as many
are packed as can be.

Axes: B activations, D `d_in`, F `d_sae`, W activations of a window.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from masked_sae.activations.lm_device import runs_ahead, share_beside
from masked_sae.activations.lm_size import LMSize, lm_size
from masked_sae.config import RunConfig, TrainerSettings
from masked_sae.errors import InputError
from masked_sae.training.optimizers import state_bytes, step_bytes

LEAST_D_IN = 1  # where the LM has not been read
_FLOAT = 4  # bytes
_WITH_GRADIENT = 2  # of each weight: itself and its gradient; of a pack's members one at a time has one
_MEASURED = 1  # and once more, as the SAE is exported and measured
_OF_A_STEP = 4  # tensors of the pre-activations' size that a step has at one time
_UNKNOWN = LMSize(0, 4096, 0)  # where an LM's files do not tell
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # cgroup v2, v1


def needed_bytes(config: RunConfig, d_in: int) -> int:
    """A lower bound on what training holds at one time: less will not do, and more may be needed. Of processes that
    train together, what each holds.

    Counted are the SAE's weights and biases with their gradients and the optimizer's moments, the window of activations
    (and of clean targets; two where the next one is made ahead), a batch of activations and its pre-activations. Not
    the LM, whose size is its own affair.
    """
    return sum(_parts(config, d_in).values())


def pack_bytes(configs: Sequence[RunConfig]) -> int:
    """What runs that share their forwards hold at one time where the SAEs train, when they are trained together: an
    estimate, rather too much than too little. Of processes that train together, what each holds.

    Once for all: as much of the LM and a forward of it as lies there, a window of activations for each hook point (two
    where the next one is made ahead), and what a step takes, as one
    member steps at a time. For each: its weights with gradient and moments, and the SAE that is measured at the end.
    """
    sequences = max(config.lm.at_once(max(config.lm.batch_size, config.eval.batch_size)) for config in configs)
    length = configs[0].data.context_length
    sizes = [lm_size(config.lm, sequences, length) or _UNKNOWN for config in configs]
    both = list(zip(configs, sizes, strict=True))
    windows = {config.lm.hook_name: _window_bytes(config, size.d_in) for config, size in both}
    step = max(_OF_A_STEP * _FLOAT * _rows(config) * config.sae.d_sae for config in configs)  # or all, of fewer latents
    weights = [_weight_bytes(config, size.d_in) for config, size in both]
    names = [(config.optim.name, size.d_in, config.sae.d_sae) for config, size in both]
    shards = configs[0].trainer.shards
    states, at_once = sum(state_bytes(*one) for one in names), max(step_bytes(*one) for one in names)
    own = _MEASURED * sum(weights) + (sum(weights) + states + max(weights) + at_once) // shards
    read = max(windows.values()) if any(config.data.cache != "false" for config in configs) else 0  # from disk
    lm = share_beside(configs[0].lm, device_of_saes(configs[0])) * (sizes[0].weights + sizes[0].forward)
    return math.ceil(lm) + sum(windows.values()) + read + step + own


def device_of_saes(config: RunConfig) -> torch.device:
    """As `find_device` has it, where CUDA may be somewhere else."""
    asked = config.trainer.device
    return torch.device("cuda" if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()) else "cpu")


def _weight_bytes(config: RunConfig, d_in: int) -> int:
    return _FLOAT * (2 * d_in * config.sae.d_sae + config.sae.d_sae + d_in)


def _window_bytes(config: RunConfig, d_in: int) -> int:
    """Of activations, and of clean targets where there are; of the next window, too, where that is made ahead."""
    data = config.data
    clean = any(getattr(mask, "target", None) == "clean" for mask in config.mask.values() if not mask.is_off)
    batches = min(max(1, data.window_tokens // data.batch_size), max(1, data.train_tokens // data.batch_size))
    ahead = runs_ahead(data.ahead, config.lm, device_of_saes(config)) and data.train_tokens > batches * data.batch_size
    return _FLOAT * batches * _rows(config) * d_in * (2 if clean else 1) * (2 if ahead else 1)


def _rows(config: RunConfig) -> int:
    """Of a batch, that one process is given."""
    return config.data.batch_size // config.trainer.ranks


def _parts(config: RunConfig, d_in: int) -> dict[tuple[str, int], int]:
    """Bytes, by the setting that they grow with and its value; what grows with two counts for the larger."""
    sae, data = config.sae, config.data
    d_sae, window, batch = (
        ("sae.d_sae", sae.d_sae), ("data.window_tokens", data.window_tokens), ("data.batch_size", data.batch_size)
    )  # fmt: skip
    weights = _weight_bytes(config, d_in)
    parts = {
        d_sae: max(
            (_WITH_GRADIENT * weights + state_bytes(config.optim.name, d_in, sae.d_sae)) // config.trainer.shards,
            _MEASURED * weights,
        ),  # the first one measures all of it
        window: _window_bytes(config, d_in),
        batch: _FLOAT * _rows(config) * config.trainer.shards * d_in,
    }
    parts[d_sae if sae.d_sae >= data.batch_size else batch] += _FLOAT * _rows(config) * sae.d_sae
    return parts


def bytes_for_each(device: torch.device, trainer: TrainerSettings) -> int:
    """Of `available_bytes`, what there is for each of the processes that train together: on a CPU they share it."""
    return available_bytes(device) // (trainer.devices if device.type == "cpu" else 1)


def available_bytes(device: torch.device) -> int:
    """What the device has in all; of a CPU, what a process may use: the machine's, SLURM's or a container's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits_of_cgroups()]
    limits.extend(share << 20 for share in _shares_of_slurm() if share > 0)  # 0: all there is
    return min(limits)


def refuse_too_large(config: RunConfig, d_in: int, device: torch.device) -> None:
    """Raises:
    InputError: the run needs more memory than there is; names the setting that weighs most.
    """
    where = "this GPU has" if device.type == "cuda" else "this machine has"
    if device.type == "cpu" and config.trainer.devices > 1:
        where += " for each process"
    refuse_larger_than(config, d_in, bytes_for_each(device, config.trainer), where)


def refuse_larger_than(config: RunConfig, d_in: int, limit: int, where: str) -> None:
    """As `refuse_too_large`, for a limit that is known.

    Args:
        where: who has so much, with its verb.
    """
    needed = needed_bytes(config, d_in)
    if needed > limit:
        parts = _parts(config, d_in)
        (key, value), _ = max(parts.items(), key=lambda part: part[1])
        valid = f"less: training would need at least {gib(needed)}, {where} {gib(limit)}"
        raise InputError(key, value, valid)


def gib(size: int) -> str:
    """A number of bytes, for people."""
    count = size / 2**30
    return f"{count:,.0f} GiB" if count >= 10 else f"{count:.2g} GiB"


def _shares_of_slurm() -> list[int]:
    """MiB of the node's memory that the job may use, where SLURM says so."""
    names = ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")
    per_node, per_cpu, cpus = (int(text) if (text := os.environ.get(name, "")).isdigit() else 0 for name in names)
    return [per_node, per_cpu * cpus]


def _limits_of_cgroups() -> list[int]:
    found: list[int] = []
    for path in _LIMITS:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # none here, or `max`
            continue
    return found
