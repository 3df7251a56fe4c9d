"""Which runs are trained on the same batches, and which can share an LM's forwards: told by digests."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masked_sae.activations.settings import LMSettings
from masked_sae.masks.mask import MaskSettings
from masked_sae.settings import without_neutral
from masked_sae.text.settings import DataSettings
from masked_sae.text.tokenizer import SPELLED_SPECIAL_TOKENS


@dataclass(frozen=True)
class Sharing:
    """Attributes:
    forwards: runs with the same are trained from the same forwards of the LM, at one hook point or several.
    batches: runs with the same have the same batches: the same hook point, too.
    lm_output: runs with the same have the same windows of what the LM gave, before scaling.
    """

    forwards: str
    batches: str
    lm_output: str


def sharing(
    lm: LMSettings,
    data: DataSettings,
    text_masks: Mapping[str, MaskSettings],
    data_seed: int,
    read: Any,
    initial: str | None = None,
    matmul_precision: str | None = None,
) -> Sharing:
    """Digests of everything that a run's batches of activations depend on, and of nothing else of the run.

    The length counts where it enters: for a run that is shorter than a window, and, since a mask may follow a schedule,
    where the text is masked.

    Args:
        text_masks: those that act on the text, and are not off.
        read: what stands for the content of text, tokenizer, weights and users' modules, as JSON has it.
        initial: what stands for the run that it begins with, whose scale its batches have.
        matmul_precision: that the LM computes with; None: the default.
    """
    steps = data.train_tokens // data.batch_size
    window = min(max(1, data.window_tokens // data.batch_size), steps)
    parts = {
        "read": read,
        "special tokens": SPELLED_SPECIAL_TOKENS,
        "lm": [lm.dtype, lm.batch_size],
        "text": [data.context_length, data.validation_share, data_seed],
        "masks": {name: without_neutral(mask) for name, mask in text_masks.items()},
        "batches": [data.batch_size, window],
        "windows": math.ceil(steps / window) if text_masks else None,
        "dtype": data.cache_dtype,
    }
    if matmul_precision is not None:
        parts["matmul precision"] = matmul_precision
    forwards = _digest([parts, data.scale_tokens])
    scaled_by = [] if initial is None else [initial]
    return Sharing(forwards, _digest([forwards, lm.hook_name, *scaled_by]), _digest([parts, lm.hook_name]))


def _digest(parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
