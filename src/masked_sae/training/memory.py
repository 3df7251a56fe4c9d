"""What a run needs of memory at the least, and what there is: what cannot be held is refused before long work.

Axes: B activations, D `d_in`, F `d_sae`, W activations of a window.
"""

import os
from pathlib import Path

import torch

from masked_sae.config import RunConfig
from masked_sae.errors import InputError

LEAST_D_IN = 1  # where the LM has not been read
_FLOAT = 4  # bytes
_WEIGHTS = 4  # of each: itself, its gradient, Adam's two moments
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # cgroup v2, v1


def needed_bytes(config: RunConfig, d_in: int) -> int:
    """A lower bound on what training holds at one time: less will not do, and more may be needed.

    Counted are the SAE's weights and biases with their gradients and Adam's moments, the window of activations (and of
    clean targets), a batch of activations and its pre-activations. Not the LM, whose size is its own affair.
    """
    return sum(_parts(config, d_in).values())


def _parts(config: RunConfig, d_in: int) -> dict[tuple[str, int], int]:
    """Bytes, by the setting that they grow with and its value; what grows with two counts for the larger."""
    sae, data = config.sae, config.data
    d_sae, window, batch = (
        ("sae.d_sae", sae.d_sae), ("data.window_tokens", data.window_tokens), ("data.batch_size", data.batch_size)
    )  # fmt: skip
    clean = any(getattr(mask, "target", None) == "clean" for mask in config.mask.values() if not mask.is_off)
    batches = min(max(1, data.window_tokens // data.batch_size), max(1, data.train_tokens // data.batch_size))
    parts = {
        d_sae: _FLOAT * _WEIGHTS * (2 * d_in * sae.d_sae + sae.d_sae + d_in),
        window: _FLOAT * batches * data.batch_size * d_in * (2 if clean else 1),
        batch: _FLOAT * data.batch_size * d_in,
    }
    parts[d_sae if sae.d_sae >= data.batch_size else batch] += _FLOAT * data.batch_size * sae.d_sae
    return parts


def available_bytes(device: torch.device) -> int:
    """What the device has in all; of a CPU, what a process may use: the machine's, SLURM's or a container's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits_of_cgroups()]
    per_node = os.environ.get("SLURM_MEM_PER_NODE", "")
    if per_node.isdigit() and int(per_node) > 0:  # 0: all there is
        limits.append(int(per_node) << 20)
    return min(limits)


def refuse_too_large(config: RunConfig, d_in: int, device: torch.device) -> None:
    """Raises:
    InputError: the run needs more memory than there is; names the setting that weighs most.
    """
    where = "this GPU has" if device.type == "cuda" else "this machine has"
    refuse_larger_than(config, d_in, available_bytes(device), where)


def refuse_larger_than(config: RunConfig, d_in: int, limit: int, where: str) -> None:
    """As `refuse_too_large`, for a limit that is known.

    Args:
        where: who has so much, with its verb.
    """
    needed = needed_bytes(config, d_in)
    if needed > limit:
        parts = _parts(config, d_in)
        (key, value), _ = max(parts.items(), key=lambda part: part[1])
        valid = f"less: training would need at least {_gib(needed)}, {where} {_gib(limit)}"
        raise InputError(key, value, valid)


def _gib(size: int) -> str:
    gib = size / 2**30
    return f"{gib:,.0f} GiB" if gib >= 10 else f"{gib:.2g} GiB"


def _limits_of_cgroups() -> list[int]:
    found: list[int] = []
    for path in _LIMITS:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # none here, or `max`
            continue
    return found
