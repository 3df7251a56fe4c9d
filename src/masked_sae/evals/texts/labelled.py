"""Texts with labels, as tasks for probing, TPP, SCR and OOD, and how they are framed for the LM.

Axes: R texts that are read together, N texts of a task, T positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masked_sae.evals.texts.activation_cache import TokenizedTexts
from masked_sae.text.tokenizer import SpecialTokens

# On which the figures of all families on labelled texts depend.
TEXT_SETTINGS = ("seed", "text_tokens", "texts_per_class", "tasks")


@dataclass(frozen=True)
class LabelledTexts:
    """What all tasks have.

    Tasks share tokenized texts, so that each is read and encoded once: a task's mean activations are
    `texts.pooled(x_PD)[rows_N]`.

    Attributes:
        name: of the task.
        texts: R texts.
        rows_N: int64, the task's texts among them.
        train_N: bool; the other texts test.
        label_names: of the C classes.
        labels_N: int64, 0 to C - 1.
    """

    name: str
    texts: TokenizedTexts
    rows_N: Tensor
    train_N: Tensor
    label_names: tuple[str, ...]
    labels_N: Tensor


@dataclass(frozen=True)
class ProbingTask(LabelledTexts):
    """Which class is a text of? For sparse probing and for TPP."""


@dataclass(frozen=True)
class SpuriousTask(LabelledTexts):
    """Two labels, and two attributes that go with them in the texts of the biased probe. For SCR.

    Attributes:
        attribute_names: those of `attributes_N` True and False.
        attributes_N: bool. `labels_N` is 1 or 0, with the names in the order 0, 1.
    """

    attribute_names: tuple[str, str]
    attributes_N: Tensor


@dataclass(frozen=True)
class ShiftTask(LabelledTexts):
    """One labelling of two distributions. For OOD.

    Attributes:
        shifted_N: bool, texts of the distribution that the probe has not seen.
    """

    shifted_N: Tensor


@dataclass(frozen=True)
class Sizes:
    """Texts of each cell (a class, or a class with an attribute), at most."""

    train: int
    test: int


def framed(texts: Sequence[Sequence[int]], special: SpecialTokens) -> TokenizedTexts:
    """Token sequences between the LM's special tokens, as `Sequences` has them; all but special ones are read.

    Args:
        texts: ordinary tokens of each text, of any lengths.
    """
    prefix, suffix = list(special.prefix), list(special.suffix)
    lengths_N = torch.tensor([len(prefix) + len(text) + len(suffix) for text in texts])
    tokens_NT = np.zeros((len(texts), int(lengths_N.max())), dtype=np.int64)
    read_NT = np.zeros(tokens_NT.shape, dtype=bool)
    for row, text in enumerate(texts):
        tokens_NT[row, : lengths_N[row]] = [*prefix, *text, *suffix]
        read_NT[row, len(prefix) : len(prefix) + len(text)] = True
    read_NT &= ~np.isin(tokens_NT, special.ids)
    return TokenizedTexts(torch.from_numpy(tokens_NT), lengths_N, torch.from_numpy(read_NT))
