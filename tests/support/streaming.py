"""A stream over a small LM, of one process or of several."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.plan import Plan
from masked_sae.activations.sequences import ShuffledSequences, make_sequences
from masked_sae.activations.stream import ActivationStream
from masked_sae.activations.window_cache import WindowCache
from masked_sae.activations.windows import Point, Windows
from masked_sae.errors import NonFiniteError
from masked_sae.masks.run_masks import Masks
from masked_sae.ranks import Ranks
from support.making import token_mask

CONTEXT, BATCH, BATCHES, WINDOW, STEPS = 16, 64, 4, 256, 10
SCALE = 0.5


def batches_of(
    ranks: Ranks,
    folder: str,
    hook_names: Sequence[str],
    indices: Sequence[int],
    *,
    mask: dict[str, Any] | None = None,
    cache_dir: str | None = None,
    poisoned: int | None = None,
) -> list[list[list[Tensor] | str]]:
    """Of each index, at each point: inputs and targets, or the error's line.

    Args:
        mask: of tokens.
        cache_dir: for windows on disk.
        poisoned: a token whose embedding is NaN.
    """
    lm = _lm(folder, hook_names[0])
    sequences = ShuffledSequences(make_sequences(_text(lm), CONTEXT, lm.special), 0)
    ordinary = np.setdiff1d(np.arange(lm.vocab_size), lm.special.ids)
    of_tokens = None if mask is None else token_mask(replacement=None, random_ids=ordinary, **mask)
    masks = Masks({} if of_tokens is None else {"token": of_tokens})
    plan = Plan.make(BATCH, WINDOW, BATCH * STEPS, sequences.content_length, 1.0 if mask is None else 0.6)
    points = [Point(name, SCALE) for name in hook_names]
    caches = None
    if cache_dir is not None:
        caches = {
            name: WindowCache(Path(cache_dir), f"{place:032x}", torch.float32, 1 << 30, writes=True)
            for place, name in enumerate(hook_names)
        }
    stream = ActivationStream(
        Windows(lm, sequences, plan, masks, points, lm_batch_size=4, seed=0, caches=caches, ranks=ranks)
    )
    with _poisoned(lm, poisoned):
        return [[_plain(found) for found in stream.at_points(index).values()] for index in indices]


@contextmanager
def counted_sequences() -> Iterator[list[int]]:
    """How many each forward of any LM reads."""
    found: list[int] = []
    forward = LM.activations_at

    def counting(self: LM, hook_names: Sequence[str], tokens_NT: Tensor) -> Any:
        found.append(len(tokens_NT))
        return forward(self, hook_names, tokens_NT)

    LM.activations_at = counting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        LM.activations_at = forward  # type: ignore[method-assign]


def _plain(found: Any) -> list[Tensor] | str:
    return str(found) if isinstance(found, NonFiniteError) else [found.x_BD, found.target_BD]


@cache
def _lm(folder: str, hook_name: str) -> LM:
    return load_lm(folder, hook_name)


def _text(lm: LM) -> Any:
    return np.random.Generator(np.random.Philox(0)).integers(10, lm.vocab_size - 1, 20_000)


@contextmanager
def _poisoned(lm: LM, token: int | None) -> Iterator[None]:
    weights = lm.bridge.original_model.get_input_embeddings().weight
    before = None if token is None else weights[token].clone()
    if token is not None:
        weights[token] = torch.nan
    try:
        yield
    finally:
        if before is not None:
            weights[token] = before
