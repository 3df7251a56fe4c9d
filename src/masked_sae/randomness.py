"""Explicit random state: one generator for each purpose, derived from the run's seed and an index."""

import zlib

import numpy as np
import torch
from numpy.typing import NDArray


def numpy_generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A generator that depends on its arguments only; different purposes or indices are independent."""
    return np.random.Generator(np.random.Philox(_sequence(seed, purpose, index)))


def torch_generator(seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """As `numpy_generator`, for torch and on a device."""
    state = int(_sequence(seed, purpose, index).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state >> 1)


def permute(indices: NDArray[np.int64], size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where a seeded permutation of `range(size)` sends each index, in memory that does not grow with `size`.

    A balanced Feistel network over the next power of four, with cycle walking (Black and Rogaway, 2002, "Ciphers with
    arbitrary finite domains"): values that fall outside `range(size)` are sent through again.
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    keys = _sequence(seed, "sequence order", epoch).generate_state(6, np.uint64).astype(np.uint64)
    out = indices.astype(np.uint64)
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():
        out[outside] = _feistel(out[outside], half, keys)
        outside = out >= size
    return out.astype(np.int64)


def shuffled(ordinals: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Which of `size` things stands at each place of an endless order: epoch after epoch a permutation, by the seed."""
    indices = np.empty_like(ordinals)
    for epoch in np.unique(ordinals // size).tolist():
        here = ordinals // size == epoch
        indices[here] = permute(ordinals[here] % size, size, seed, epoch)
    return indices


def _feistel(values: NDArray[np.uint64], half: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    low = np.uint64((1 << int(half)) - 1)
    left, right = values >> half, values & low
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & low)
    return (left << half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014); arithmetic is modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _sequence(seed: int, purpose: str, index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), index])
