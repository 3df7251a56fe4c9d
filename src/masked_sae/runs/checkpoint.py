"""Checkpoints: `last.safetensors` and the one before it, each complete or absent.

A checkpoint is one safetensors file: tensors under their names, and in its header a JSON object with the step and a
digest of the tensors, so that a damaged file is told from a whole one. Nothing is ever unpickled.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from masked_sae.files import remove_leftovers, sync, write_aside

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    tensors: dict[str, Tensor]
    meta: dict[str, Any]  # JSON values


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes `last`; what was `last` becomes `previous`. At every moment one of the two is complete."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {"meta": json.dumps(checkpoint.meta), "digest": _digest(tensors)}
    last, aside = folder / LAST, folder / ".next.safetensors"
    remove_leftovers(aside)
    write_aside(aside, lambda path: save_file(tensors, path, metadata=header))
    if last.exists():
        last.replace(folder / PREVIOUS)
    aside.replace(last)
    sync(folder)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, or None where there is none. Warns of each damaged one it passes over."""
    for name in (".next.safetensors", LAST, PREVIOUS):
        path = folder / name
        if path.exists():
            try:
                return _read(path)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                warnings.warn(f"{path} is damaged ({error}); falling back to the one before it", stacklevel=2)
    return None


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        header: Mapping[str, str] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _digest(tensors) != header["digest"]:
        raise ValueError("its content does not match its digest")
    return Checkpoint(tensors, json.loads(header["meta"]))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
