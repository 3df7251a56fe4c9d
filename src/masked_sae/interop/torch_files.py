"""Tensors that torch.save wrote, read without running anything that the file names.

Such a file is a zip archive: a pickle that says which tensors there are, and one entry of bytes for each. The pickle is
read as a list of instructions first, and refused if it names more than what tensors are made of; then torch reads it in
its own safe mode.
"""

import os
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masked_sae.errors import InputError, first_line

_LARGEST_PICKLE = 1 << 20  # bytes; of the names and shapes of a few tensors
_MOST_ENTRIES = 256
_BEGIN, _END = b"PK\x03\x04", b"PK\x05\x06"  # of an archive's first entry, and of its last record
_END_BYTES = 22  # of that record, without a comment
_NEEDED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Int", "Long", "Bool")),
}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, by name, on the CPU.

    Raises:
        InputError: it is no such file, or holds or names anything else.
    """
    check_archive(path)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _refused(path, f"a readable {path.name} ({error.strerror or first_line(error)})") from error
    except Exception as error:
        raise _refused(path, f"a whole {path.name} ({first_line(error)[:80]})") from error
    if not isinstance(found, dict):
        raise _refused(path, f"tensors by name in {path.name}; it holds a {type(found).__name__}")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise _refused(path, f"nothing but tensors by name in {path.name}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():  # strides of 0 claim any size
            raise _refused(path, f"as many numbers of {name[:40]!a} in {path.name} as its shape says")
    return {name: tensor.detach() for name, tensor in found.items()}


def check_archive(path: Path) -> None:
    """Sizes, and what the pickle names, before a byte of it is acted on."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickle = _find_pickle(path, archive)
            named = set(_names(archive.read(pickle)))
    except InputError:
        raise
    except OSError as error:
        raise _refused(path, f"a readable {path.name} ({error.strerror or first_line(error)})") from error
    except Exception as error:
        raise _refused(path, f"{path.name} as torch.save writes it ({first_line(error)[:80]})") from error
    for name in sorted(named - _NEEDED):
        raise _refused(path, f"{path.name} of tensors alone: it names {name[:80]!a}, and nothing of it was run")


def _find_pickle(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one that torch will read, too: nothing stands before the archive or after it, and no name is there twice, in
    whatever case.
    """
    entries = archive.infolist()
    with path.open("rb") as file:
        begins_with = file.read(len(_BEGIN))
        file.seek(-_END_BYTES, os.SEEK_END)
        ends_with = file.read(len(_END))
    if (begins_with, ends_with) != (_BEGIN, _END) or min(entry.header_offset for entry in entries) != 0:
        raise _refused(path, f"{path.name} as torch.save writes it: an archive and nothing else")
    if len(entries) > _MOST_ENTRIES or len({entry.filename.lower() for entry in entries}) != len(entries):
        raise _refused(path, f"{path.name} with at most {_MOST_ENTRIES} entries, each of its own name")
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise _refused(path, f"{path.name} as torch.save writes it: its entries claim more than is there")
    (pickle,) = (entry for entry in entries if entry.filename.lower().endswith("/data.pkl"))
    if pickle.file_size > _LARGEST_PICKLE:
        raise _refused(path, f"{path.name} of tensors alone: its index has {pickle.file_size} bytes")
    return pickle


def _names(pickle: bytes) -> Iterator[str]:
    """What the pickle would import."""
    for code, argument, _ in pickletools.genops(pickle):
        if code.name == "GLOBAL":
            yield str(argument)
        elif code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"):
            yield str(argument or code.name)


def _refused(path: Path, valid: str) -> InputError:
    return InputError("sae", path.parent, valid)
