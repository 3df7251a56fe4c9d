"""Windows of a cache, and processes of their own that compute and store them."""

import os
import time
from pathlib import Path

import torch

from masked_sae.activations.window_cache import StoredWindow, WindowCache

KEY, OTHER = "0" * 32, "1" * 32
PLENTY = 1 << 40
ROWS, WIDTH = 640, 16


def window(seed: int, rows: int = ROWS, with_target: bool = False) -> StoredWindow:
    generator = torch.Generator().manual_seed(seed)
    x_WD, target_WD = torch.randn(2, rows, WIDTH, generator=generator)
    return StoredWindow(x_WD, target_WD if with_target else None, rows + seed, seed)


def cache_of(folder: Path, key: str = KEY, limit: int = PLENTY, writes: bool = True) -> WindowCache:
    return WindowCache(folder, key, torch.float32, limit, writes=writes)


def same(ours: StoredWindow | None, theirs: StoredWindow | None) -> bool:
    if ours is None or theirs is None or (ours.target_WD is None) != (theirs.target_WD is None):
        return False
    pairs = [(ours.x_WD, theirs.x_WD)]
    if ours.target_WD is not None and theirs.target_WD is not None:
        pairs.append((ours.target_WD, theirs.target_WD))
    counts = (ours.maskable, ours.masked) == (theirs.maskable, theirs.masked)
    return counts and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def train_through(folder: Path, key: str, limit: int, windows: int, log: Path) -> None:
    """Takes window after window as a job does; notes each that it computes in `log`, and any that is not right."""
    cache = cache_of(folder, key, limit)
    for index in range(windows):
        with cache.turn(index) as found:
            if found is None:
                _note(log, f"computed {index}")
                time.sleep(0.05)
                cache.write(index, window(index))
            elif not same(found, window(index)):
                _note(log, f"wrong {index}")


def write_for_ever(folder: Path, rows: int) -> None:
    """Writes windows, each in its turn, until it is killed."""
    cache, large = cache_of(folder), window(0, rows)
    for index in range(10_000):
        with cache.turn(index):
            cache.write(index, large)


def hold_turn(folder: Path, index: int, holds: Path) -> None:
    """Takes its turn, and never ends."""
    with cache_of(folder).turn(index):
        holds.touch()
        time.sleep(600)


def _note(log: Path, line: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)
