"""Checkpoints: `last.safetensors` and the one before it, each complete or absent.

A checkpoint is one safetensors file (see `tensor_files`): tensors under their names, and in its header the step.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from masked_sae.errors import DamagedFileError, notice, one_line
from masked_sae.files import remove_leftovers, sync
from masked_sae.tensor_files import bytes_of, load_tensors, save_tensors

LAST, PREVIOUS, _NEXT = "last.safetensors", "previous.safetensors", ".next.safetensors"


_OF_SAE = "sae/"


@dataclass(frozen=True)
class Checkpoint:
    tensors: dict[str, Tensor]
    meta: dict[str, Any]  # JSON values

    @property
    def sae(self) -> dict[str, Tensor]:
        """The SAE's parameters and buffers, by their names in it."""
        return {name.removeprefix(_OF_SAE): tensor for name, tensor in self.tensors.items() if name.startswith(_OF_SAE)}


def of_sae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The SAE's parameters and buffers, by their names in a checkpoint."""
    return {f"{_OF_SAE}{name}": tensor for name, tensor in state.items()}


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes `last`; what was `last` becomes `previous`. At every moment one of the two is complete."""
    aside = folder / _NEXT
    remove_leftovers(aside)
    save_tensors(aside, checkpoint.tensors, checkpoint.meta)
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
            except (DamagedFileError, OSError) as error:
                why = error.why if isinstance(error, DamagedFileError) else one_line(error)
                notice(f"{path} is damaged ({why}): going on from the one before it, if there is one")
    return None


def _read(path: Path) -> Checkpoint:
    tensors, meta = load_tensors(path, former=lambda header, tensors: _has_former_digest(path, header, tensors))
    if not isinstance(meta.get("step"), int):
        raise DamagedFileError(path, "no step in its header")
    return Checkpoint(tensors, meta)


def _has_former_digest(path: Path, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bool:
    """Whether it has the digest that checkpoints had before they were digested in pieces."""
    if header["digest"] == _former_digest(tensors, header["meta"]):
        return True
    if header["digest"] != _former_digest(tensors):
        return False
    notice(f"{path} is from before the step was in its digest; its form is right, and the next one has it")
    return True


def _former_digest(tensors: Mapping[str, Tensor], meta: str | None = None) -> str:
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
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
