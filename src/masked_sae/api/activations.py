"""Activations of one's own: rows of a tensor, an array or a file, read a few at a time, in a seeded order.

Axes: P activations in all, B of a batch, D `d_in`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from masked_sae.errors import InputError, NonFiniteError, first_line
from masked_sae.randomness import shuffled

Activations: TypeAlias = Tensor | NDArray[Any] | str | Path


@dataclass(frozen=True)
class Rows:
    """Activations, where they are: in memory, or mapped from a file, of which a batch reads what it needs.

    Attributes:
        x_PD: floating-point numbers of any kind; they are read as float32.
        first, stop: the rows of it that these are.
        name: of what they are, for errors.
    """

    x_PD: Tensor | NDArray[Any]
    first: int
    stop: int
    name: str

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def d_in(self) -> int:
        return self.x_PD.shape[1]

    def part(self, first: int, stop: int) -> "Rows":
        return Rows(self.x_PD, self.first + first, self.first + stop, self.name)

    def read(self, rows_B: NDArray[np.int64]) -> Tensor:
        """These rows, float32, in this order.

        Raises:
            NonFiniteError: one is not finite.
        """
        order_B = np.argsort(rows_B)  # a disk is read forwards
        sorted_B = rows_B[order_B] + self.first
        if isinstance(self.x_PD, Tensor):
            found_BD = self.x_PD[torch.from_numpy(sorted_B).to(self.x_PD.device)].detach()
        else:
            found_BD = torch.from_numpy(self.x_PD[sorted_B])
        back_B = torch.from_numpy(np.argsort(order_B)).to(found_BD.device)
        x_BD = found_BD[back_B].float()
        finite_B = x_BD.isfinite().all(1).cpu().numpy()
        if not finite_B.all():
            row = int(rows_B[~finite_B].min()) + self.first
            raise NonFiniteError(f"NaN or infinity in row {row} of {self.name}; expected finite numbers")
        return x_BD


@dataclass(frozen=True)
class ShuffledRows:
    """Batches by their index: one permutation of the rows after another, drawn by the seed."""

    rows: Rows
    batch_size: int
    seed: int
    device: torch.device

    def batch(self, index: int) -> Tensor:
        ordinals_B = np.arange(index * self.batch_size, (index + 1) * self.batch_size, dtype=np.int64)
        return self.rows.read(shuffled(ordinals_B, len(self.rows), self.seed)).to(self.device)


def open_activations(activations: Activations) -> Rows:
    """A tensor or array (P, D); or a file `.npy`, or `.safetensors` with one tensor, which is mapped.

    Raises:
        InputError: it is something else.
    """
    if isinstance(activations, (str, Path)):
        path = Path(activations).expanduser()
        return _rows(_map(path), str(path))
    return _rows(activations, "the activations")


def _rows(x_PD: Tensor | NDArray[Any], name: str) -> Rows:
    shape, dtype = tuple(x_PD.shape), str(x_PD.dtype).removeprefix("torch.")
    if len(shape) != 2 or 0 in shape:
        raise InputError("activations", f"{name} of shape {shape}", "rows of activations, (P, d_in)")
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise InputError("activations", f"{name} of {dtype}", "floating-point numbers")
    return Rows(x_PD, 0, shape[0], name)


def _map(path: Path) -> Tensor | NDArray[Any]:
    """Nothing is read yet."""
    if not path.is_file():
        raise InputError("activations", path, "a file that exists")
    if path.suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise InputError("activations", path, f"an array that NumPy saved ({first_line(error)})") from error
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                if len(names) == 1:
                    return file.get_tensor(names[0])
        except SafetensorError as error:
            raise InputError("activations", path, f"a file of safetensors ({first_line(error)})") from error
        raise InputError("activations", path, f"a file with one tensor; it has {len(names)}")
    raise InputError("activations", path, "a file .npy or .safetensors")
