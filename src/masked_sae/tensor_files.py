"""Tensors in safetensors files that tell a damaged one from a whole one. Nothing is ever unpickled.

The header has a JSON object of the writer's, and a digest of it and of the tensors. It is SHA-256, which processors
compute faster than BLAKE2, of pieces at once.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from masked_sae.errors import DamagedFileError, first_line
from masked_sae.files import write_aside

_PIECE = 1 << 23  # bytes; the digest depends on it
_THREADS = 4

Former = Callable[[Mapping[str, str], Mapping[str, Tensor]], bool]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes them aside and renames the file into its place.

    Args:
        meta: JSON values.

    Raises:
        OSError: of the disk.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta)
    header = {"meta": text, "sha256": _digest(whole, text)}
    write_aside(path, lambda aside: save_file(whole, aside, metadata=header))


def load_tensors(path: Path, former: Former | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote: the tensors, in memory of their own, and the JSON object.

    Args:
        former: whether a file without today's digest has the one of before, by its header and tensors.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is not as it was written.
        OSError: it cannot be read.
    """
    try:
        # Read, not mapped: a map changes with its file, and one that another machine removes ends the process.
        with safe_open(path, framework="pt", backend="pread") as file:
            header: Mapping[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = header["meta"]
        of_before = former is not None and "sha256" not in header and former(header, tensors)
        if not of_before and header["sha256"] != _digest(tensors, text):
            raise ValueError("its content does not match its digest")
        meta = json.loads(text)
        if not isinstance(meta, dict):
            raise ValueError(f"a {type(meta).__name__} in its header where an object should be")
    except KeyError as error:
        raise DamagedFileError(path, f"no {first_line(error)} in its header") from error
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise DamagedFileError(path, first_line(error)) from error
    return tensors, meta


def bytes_of(tensor: Tensor) -> memoryview:
    """Of a contiguous tensor on the CPU, as they lie."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _digest(tensors: Mapping[str, Tensor], meta: str) -> str:
    """Of the tensors, their names, dtypes and shapes, and of what the header says."""
    digest = hashlib.sha256(meta.encode())
    with ThreadPoolExecutor(_THREADS) as threads:
        for name in sorted(tensors):
            tensor = tensors[name]
            content = bytes_of(tensor)
            digest.update(f"\0{name}\0{tensor.dtype}{tuple(tensor.shape)}\0".encode())
            pieces = (content[start : start + _PIECE] for start in range(0, len(content), _PIECE))
            for one in threads.map(_sha256, pieces):
                digest.update(one)
    return digest.hexdigest()


def _sha256(piece: memoryview) -> bytes:
    return hashlib.sha256(piece).digest()
