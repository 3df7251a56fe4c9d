"""Checkpoints: `last.safetensors` and the one before it, each complete or absent.

A checkpoint is one safetensors file: tensors under their names, and in its header a JSON object with the step and a
digest of both, so that a damaged file is told from a whole one. Nothing is ever unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from masked_sae.errors import first_line, notice
from masked_sae.files import remove_leftovers, sync, write_aside

LAST, PREVIOUS, _NEXT = "last.safetensors", "previous.safetensors", ".next.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    tensors: dict[str, Tensor]
    meta: dict[str, Any]  # JSON values


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes `last`; what was `last` becomes `previous`. At every moment one of the two is complete."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    meta = json.dumps(checkpoint.meta)
    header = {"meta": meta, "digest": _digest(tensors, meta)}
    aside = folder / _NEXT
    remove_leftovers(aside)
    write_aside(aside, lambda path: save_file(tensors, path, metadata=header))
    _put_in_place(folder)


def _put_in_place(folder: Path) -> None:
    last = folder / LAST
    if last.exists():
        last.replace(folder / PREVIOUS)
    (folder / _NEXT).replace(last)
    sync(folder)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, or None where there is none. Tells of each damaged one that it passes over.

    One that a kill left beside its place is put there. Nobody else may be writing.
    """
    for name in (_NEXT, LAST, PREVIOUS):
        path = folder / name
        if path.exists():
            try:
                found = _read(path)
                if name == _NEXT:
                    _put_in_place(folder)
                return found
            except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                notice(f"{path} is damaged ({first_line(error)}): going on from the one before it, if there is one")
    return None


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        header: Mapping[str, str] = file.metadata() or {}
        # Copies: a tensor as it comes is a map of the file, and changes and dies with it.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    meta = header["meta"]
    if header["digest"] != _digest(tensors, meta):
        if header["digest"] != _digest(tensors):
            raise ValueError("its content does not match its digest")
        notice(f"{path} is from before the step was in its digest; its form is right, and the next one has it")
    return Checkpoint(tensors, _checked(json.loads(meta)))


def _checked(meta: Any) -> dict[str, Any]:
    if not isinstance(meta, dict) or not isinstance(meta.get("step"), int):
        raise ValueError("no step in its header")
    return meta


def _digest(tensors: Mapping[str, Tensor], meta: str | None = None) -> str:
    """Of the tensors, their dtypes and shapes, and of what the header says; None: of the tensors' bytes alone, as it
    once was.
    """
    digest = hashlib.blake2b(digest_size=16)
    if meta is not None:
        digest.update(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(name.encode())
        if meta is not None:
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
