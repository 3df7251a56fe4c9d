"""Whole files by their content, each read once: a digest is remembered by path, size, time of change and inode."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from masked_sae.files import write_text

_PIECE = 1 << 24  # bytes
_SHOWN_FROM = 1 << 30  # bytes that take seconds


def sha256(path: Path, memory: Path | None = None, *, progress: bool = False) -> str:
    """Of all of a file's bytes, in hexadecimal: what the hub calls a weight file by, too.

    Args:
        memory: a folder in which digests are remembered; one that cannot be written remembers nothing.
        progress: a bar for a file of gigabytes that is read.
    """
    known = None if memory is None else memory / _name(path)
    if known is not None:
        with suppress(OSError, UnicodeDecodeError):
            found = known.read_text(encoding="ascii")
            if len(found) == 64:
                return found
    digest = _read(path, progress)
    if known is not None:
        with suppress(OSError):
            write_text(known, digest)
    return digest


def of_all(parts: Sequence[str]) -> str:
    """One digest of several texts, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _name(path: Path) -> str:
    """Of what is remembered: another as soon as the file is, on whatever machine it was changed."""
    there = path.resolve()
    with there.open("rb") as file:  # opened, for a network file system asks its server then and not for what it knows
        stat = os.fstat(file.fileno())
    return of_all([str(there), str(stat.st_size), str(stat.st_mtime_ns), str(stat.st_dev), str(stat.st_ino)])


def _read(path: Path, progress: bool) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    bar = tqdm(
        total=size,
        desc=f"reading {path.name}",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=not progress or size < _SHOWN_FROM,
    )
    with path.open("rb") as file, bar:
        while piece := file.read(_PIECE):
            digest.update(piece)
            bar.update(len(piece))
    return digest.hexdigest()
