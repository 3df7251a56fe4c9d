"""Optimizers, by `optim.name`: how each is made, and what its state takes.

adam       two moments of every weight
adafactor  means of rows and columns of a matrix's second moment (Shazeer and Stern 2018, arXiv 1804.04235), by torch:
           no first moment; a step is relative to the weights' root mean square, and at most 1 / sqrt(step) of it
adam8bit   both moments in 8 bits, with a scale for each 256 (Dettmers et al. 2021, arXiv 2110.02861), by bitsandbytes

Axes: D `d_in`, F `d_sae`.
"""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from masked_sae.errors import InputError

_FLOAT = 4  # bytes
_LIBRARY = "bitsandbytes"
_BLOCK = 256


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """The optimizer of this name."""
    if name == "adafactor":
        return torch.optim.Adafactor(parameters, lr=lr, foreach=False)  # one matrix after another: less at one time
    if name == "adam8bit":
        library: Any = importlib.import_module(f"{_LIBRARY}.optim")
        return library.Adam8bit(parameters, lr=lr)
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def refuse_unusable(name: str, device: torch.device) -> None:
    """Raises:
    InputError: the optimizer needs a library that is not installed, or another device.
    """
    if name != "adam8bit":
        return
    if importlib.util.find_spec(_LIBRARY) is None:
        valid = f"adam or adafactor, or {_LIBRARY} installed: pip install 'masked-sae[adam8bit]'"
        raise InputError("optim.name", name, valid)
    if device.type != "cuda":
        raise InputError("optim.name", name, "adam or adafactor on a CPU: this one is for a CUDA device")


def state_bytes(name: str, d_in: int, d_sae: int) -> int:
    """Of an SAE's optimizer, as far as it grows: of encoder, decoder and their biases."""
    weights, biases = 2 * d_in * d_sae, d_sae + d_in
    if name == "adafactor":
        return _FLOAT * (2 * (d_in + d_sae) + biases)
    if name == "adam8bit":
        return 2 * (weights + _FLOAT * weights // _BLOCK + _FLOAT * biases)
    return 2 * _FLOAT * (weights + biases)


def step_bytes(name: str, d_in: int, d_sae: int) -> int:
    """What a step of it has besides at one time: Adafactor an update of a whole matrix."""
    return _FLOAT * d_in * d_sae if name == "adafactor" else 0
