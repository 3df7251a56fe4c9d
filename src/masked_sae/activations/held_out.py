"""Which held-out sequences serve for what, and the LM's activations on them.

Axes: N sequences, T positions, B activations, D `d_in`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences

_CALIBRATES = 4  # every so many held-out sequences, one
_ENOUGH = 0.95  # of the tokens that were asked for: sequences are whole, and some of their positions special


def shortage(measured: int, asked: int) -> dict[str, str]:
    """A note under `tokens` where a text has held out clearly fewer tokens than `eval.tokens` asks for."""
    if measured >= _ENOUGH * asked:
        return {}
    return {"tokens": f"measured on {measured:,} held-out tokens of the {asked:,} of eval.tokens: the text has no more"}


def sequences_to_measure(held_out: Sequences, tokens: int) -> NDArray[np.int64]:
    """Sequences with about `tokens` tokens; where there are four or more, none of `sequences_to_calibrate`."""
    return _spread(held_out, tokens, np.arange(len(held_out)) % _CALIBRATES != _CALIBRATES - 1)


def sequences_to_calibrate(held_out: Sequences, tokens: int) -> NDArray[np.int64]:
    """Every fourth sequence, or as many of these as have about `tokens` tokens; of fewer than four, any."""
    return _spread(held_out, tokens, np.arange(len(held_out)) % _CALIBRATES == _CALIBRATES - 1)


def sequences_of_all(held_out: Sequences, tokens: int) -> NDArray[np.int64]:
    """Sequences with about `tokens` tokens, whether or not they may have set a threshold.

    For metrics that one number for all latents, chosen for its L0, cannot be fitted to.
    """
    return _spread(held_out, tokens, np.ones(len(held_out), dtype=np.bool_))


def sequences_drawn(held_out: Sequences, tokens: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """As many of all sequences as have `tokens` tokens, in random order."""
    return generator.permutation(len(held_out))[: math.ceil(tokens / held_out.content_length)]


def _spread(held_out: Sequences, tokens: int, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Over all of them, so that a few sequences still see many documents."""
    candidates = chosen.nonzero()[0] if chosen.any() else np.arange(len(held_out))  # of a very short text: all
    n_sequences = min(math.ceil(tokens / held_out.content_length), len(candidates))
    return candidates[np.linspace(0, len(candidates) - 1, n_sequences).round().astype(np.int64)]


class HeldOutBatch(NamedTuple):
    """What the LM gives for a few sequences.

    Attributes:
        first: place of the first one among those that are read.
        tokens_NT: token ids, int64.
        kept_NT: all but special positions.
        x_BD: clean activations, as they are, at the kept positions; where the LM gives them.
    """

    first: int
    tokens_NT: Tensor
    kept_NT: Tensor
    x_BD: Tensor


def sequence_batches(
    held_out: Sequences, indices: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """These sequences, `batch_size` at a time: place of the first one, token ids and kept positions, each (N, T)."""
    for first in range(0, len(indices), batch_size):
        yield first, *held_out.read(indices[first : first + batch_size])


def activation_batches(
    lm: LM, held_out: Sequences, indices: NDArray[np.int64], batch_size: int
) -> Iterator[HeldOutBatch]:
    """The LM's activations on these sequences, `batch_size` sequences per forward."""
    for first, tokens_NT, kept_NT in sequence_batches(held_out, indices, batch_size):
        yield HeldOutBatch(first, tokens_NT, kept_NT, lm.activations(tokens_NT)[kept_NT.to(lm.gives_on)])
