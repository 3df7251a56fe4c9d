"""The sequences that an LM reads: cut from a token store, framed by special tokens, in a run's order.

Axes: N sequences, T positions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.errors import InputError
from masked_sae.randomness import shuffled
from masked_sae.text.tokenizer import SpecialTokens


@dataclass(frozen=True)
class Sequences:
    """Of a corpus: `prefix`, `content_length` tokens of the flat store, `suffix`."""

    tokens: NDArray[Any]
    content_length: int
    special: SpecialTokens

    def __len__(self) -> int:
        return len(self.tokens) // self.content_length

    def read(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Token ids (N, T), int64, and which positions are kept (N, T): all but special ones."""
        content_NT = stretches(self.tokens, self.content_length, indices)
        ends = (len(self.special.prefix), len(self.special.suffix))
        tokens_NT = np.pad(content_NT, ((0, 0), ends))
        tokens_NT[:, : ends[0]] = self.special.prefix
        tokens_NT[:, tokens_NT.shape[1] - ends[1] :] = self.special.suffix
        kept_NT = ~np.isin(tokens_NT, self.special.ids)
        kept_NT[:, : ends[0]] = False
        kept_NT[:, tokens_NT.shape[1] - ends[1] :] = False
        return torch.from_numpy(tokens_NT), torch.from_numpy(kept_NT)


def stretches(tokens: NDArray[Any], length: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, length) stretches of the flat tokens; stretch `i` begins at `i * length`."""
    return np.stack([tokens[i * length : (i + 1) * length] for i in indices.tolist()]).astype(np.int64)


def make_sequences(tokens: NDArray[Any], context_length: int, special: SpecialTokens) -> Sequences:
    """The sequences of `context_length` tokens, special ones included.

    Raises:
        InputError: the corpus is shorter than one of them.
    """
    content = context_length - len(special.prefix) - len(special.suffix)
    if content < 1:
        taken = len(special.prefix) + len(special.suffix)
        raise InputError("data.context_length", context_length, f"more than the {taken} special tokens of a sequence")
    sequences = Sequences(tokens, content, special)
    if len(sequences) == 0:
        valid = f"at most {len(tokens) + context_length - content}: the corpus has {len(tokens)} tokens"
        raise InputError("data.context_length", context_length, valid)
    return sequences


@dataclass(frozen=True)
class ShuffledSequences:
    """Sequences in a run's order, epoch after epoch: each a new permutation of the corpus, drawn by the seed."""

    sequences: Sequences
    seed: int

    @property
    def epoch(self) -> int:
        """How many an epoch has."""
        return len(self.sequences)

    @property
    def content_length(self) -> int:
        return self.sequences.content_length

    def read(self, ordinals: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """As `Sequences.read`, by places in the run's order."""
        return self.sequences.read(shuffled(ordinals, self.epoch, self.seed))
