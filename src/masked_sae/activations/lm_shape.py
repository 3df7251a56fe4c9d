"""An LM without its weights, on torch's meta device: what a forward to the hook points costs, before one is loaded.

It is read as the real one is, by the same bridge at the same hook points, so what is counted is what will be computed.
"""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from masked_sae.activations.boot import boot
from masked_sae.activations.lm import LM
from masked_sae.activations.settings import LMSettings
from masked_sae.errors import InputError
from masked_sae.lm_files import find_tokenizer_folder, read_lm_config, shortened
from masked_sae.text.tokenizer import load_tokenizer

_META = torch.device("meta")


class UnknownCost(Exception):
    """Why nothing can be told before the LM is loaded."""


@dataclass(frozen=True)
class Forward:
    """One forward of an LM, no further than to the deepest of the hook points.

    Attributes:
        weights: bytes of the whole LM's.
        d_in: by hook point.
        flops: of products; a multiplication and an addition are two.
        peak: bytes that it has at one time, beside weights.
    """

    weights: int
    d_in: dict[str, int]
    flops: int
    peak: int


def forward_of(lm: LMSettings, hook_names: Sequence[str], sequences: int, context_length: int) -> Forward:
    """By the checkpoint's configuration and tokenizer alone.

    Raises:
        InputError: there is no such LM, or no such hook point.
        UnknownCost: its architecture cannot be laid out without weights.
    """
    return _forward(
        lm.name, lm.revision, lm.dtype, tuple(dict.fromkeys(hook_names)), sequences, context_length
    )  # of members that agree in these, once


@lru_cache(maxsize=64)
def _forward(
    name: str, revision: str | None, dtype: str, hook_names: tuple[str, ...], sequences: int, context_length: int
) -> Forward:
    folder, tokenizer = find_tokenizer_folder(name, revision), load_tokenizer(name, revision)
    read_lm_config(name, folder)
    return count_forward(name, folder, tokenizer, dtype, hook_names, sequences, context_length)


def count_forward(
    name: str,
    folder: Path,
    tokenizer: Any,
    dtype: str,
    hook_names: Sequence[str],
    sequences: int,
    context_length: int,
) -> Forward:
    """As `forward_of`, of a folder with a configuration."""
    tokens_NT = torch.zeros((sequences, context_length), dtype=torch.long)
    try:
        bridge = boot(folder, dtype, {"device": "meta"}, _FromConfiguration)
        lms = [LM(bridge, tokenizer, hook_name, _META, has_head=False) for hook_name in hook_names]
        with _warnings_ignored(), FlopCounterMode(display=False) as counter:
            lms[0].activations_at(hook_names, tokens_NT)
        with _warnings_ignored(), LivePeak() as live:
            lms[0].activations_at(hook_names, tokens_NT)
    except InputError:
        raise
    except Exception as error:
        raise UnknownCost(f"{name} cannot be laid out without weights ({shortened(error)})") from error
    weights = sum(weight.nbytes for weight in bridge.parameters())
    return Forward(weights, {lm.hook_name: lm.d_in for lm in lms}, counter.get_total_flops(), live.peak)


class _FromConfiguration:
    """Stands where the bridge takes a class of models."""

    def __init__(self, model_class: Any) -> None:
        self._model_class = model_class

    def from_pretrained(self, folder: str, *, config: Any, torch_dtype: torch.dtype, **settings: Any) -> nn.Module:
        """Called by the bridge."""
        settings.pop("device_map", None)
        with _META:
            return self._model_class.from_config(config, dtype=torch_dtype, **settings)


class LivePeak(TorchDispatchMode):
    """The most bytes that tensors have at one time of those that operations make while it is on.

    Attributes:
        peak: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _storages((args, kwargs))  # what a view shows is no memory of its own
        made = func(*args, **(kwargs or {}))
        self._live = {key: one for key, one in self._live.items() if not one[0].expired()}
        new = {key: one for key, one in _storages(made).items() if key not in given}
        self._live = new | self._live
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return made


def _storages(values: Any) -> dict[int, tuple[StorageWeakRef, int]]:
    """Of all tensors among these, by their address, with their bytes."""
    tensors = [one for one in tree_leaves(values) if isinstance(one, Tensor) and one.layout == torch.strided]
    storages = [tensor.untyped_storage() for tensor in tensors]
    found = [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]
    return {reference.cdata: (reference, size) for reference, size in found}


@contextmanager
def _warnings_ignored() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
