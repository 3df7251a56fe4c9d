"""How large an LM is, by its files alone: an estimate, before anything of it is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from masked_sae.activations.settings import LMSettings
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.files import read_object
from masked_sae.lm_files import INDEX, find_tokenizer_folder, read_lm_config, weight_files

# As configurations of Hugging Face name them.
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
_MLP = ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_FLOAT = 4  # bytes
_BRIDGED = 1.25  # TransformerBridge may keep queries, keys and values apart, beside the weights as they came
_WIDTHS_AT_ONCE = 8  # vectors of the LM's width that a layer has at one time, beside its MLP's


@dataclass(frozen=True)
class LMSize:
    """Attributes:
    weights: bytes; 0 where nothing tells.
    d_in: of an activation at the hook point.
    forward: bytes that a forward takes, predictions included.
    """

    weights: int
    d_in: int
    forward: int


def lm_size(lm: LMSettings, sequences: int, context_length: int) -> LMSize | None:
    """None where the files do not tell; whoever loads the LM says what is wrong with them.

    Args:
        sequences: of a forward.
    """
    try:
        folder = find_tokenizer_folder(lm.name, lm.revision)
        return _size(lm.name, folder, lm.hook_name, lm.dtype, sequences * context_length, context_length)
    except (InputError, DamagedFileError, OSError):
        return None


@lru_cache(maxsize=256)
def _size(name: str, folder: Path, hook_name: str, dtype: str, tokens: int, context_length: int) -> LMSize | None:
    config = read_lm_config(name, folder)
    config = {**config, **(config.get("text_config") or {})}
    width = _number(config, *_WIDTH)
    if width is None:
        return None
    mlp = _number(config, *_MLP) or 4 * width
    heads, vocabulary = _number(config, *_HEADS) or 1, _number(config, "vocab_size") or 0
    a_token = _WIDTHS_AT_ONCE * width + 2 * mlp + 2 * heads * context_length + vocabulary
    in_mlp = "mlp.hook" in hook_name and not hook_name.endswith(("_in", "_out"))
    as_read = _itemsize(dtype) / _itemsize(config.get("dtype") or config.get("torch_dtype"))
    return LMSize(int(_BRIDGED * as_read * _bytes(name, folder)), mlp if in_mlp else width, _FLOAT * tokens * a_token)


def _bytes(name: str, folder: Path) -> int:
    """Of the weight files; where they are still to be downloaded, what their index tells."""
    try:
        return sum((folder / file).stat().st_size for file in weight_files(name, folder))
    except (InputError, OSError):
        if not (folder / INDEX).is_file():
            return 0
        said = read_object(folder / INDEX).get("metadata")
        return (_number(said, "total_size") or 0) if isinstance(said, dict) else 0


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    found = (config.get(key) for key in keys)
    return next((one for one in found if isinstance(one, int) and one > 0), None)


def _itemsize(dtype: object) -> int:
    known = getattr(torch, str(dtype), None)
    return known.itemsize if isinstance(known, torch.dtype) else _FLOAT
