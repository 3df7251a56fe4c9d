"""Concepts that hold over stretches of a text: general ones that occur with special cases of them, which is what
absorption is about.

Axes: N texts, T positions, P read positions of all texts, in order, C concepts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from masked_sae.activations.lm import LM
from masked_sae.errors import InputError
from masked_sae.evals.texts.concepts import TRAIN_SHARE, Concepts
from masked_sae.evals.texts.labelled import framed
from masked_sae.randomness import numpy_generator
from masked_sae.text.tokenizer import encode_with_places

_MOST_OF_A_DOCUMENT = 8  # texts


class Span(NamedTuple):
    """A concept holds from character `start` up to `stop`."""

    concept: str
    start: int
    stop: int


@dataclass(frozen=True)
class SpanSet:
    """A set of concepts.

    Attributes:
        names: of the concepts.
        hierarchy: general ones, each with its special cases: wherever one of these holds, so does the general one.
        spans: where they hold in a text.
        documents: texts, the first before the others.
        minimum: see `Concepts`.
    """

    name: str
    names: tuple[str, ...]
    hierarchy: Mapping[str, tuple[str, ...]]
    spans: Callable[[str], Iterable[Span]]
    documents: Callable[[], Iterable[str]]
    minimum: int = 10


def concepts_of_spans(
    what: SpanSet, lm: LM, *, length: int, tokens: int, train_share: float = TRAIN_SHARE, seed: int
) -> Concepts:
    """Which concepts hold at each token of texts cut from documents.

    A token is what its first visible character is; one without any is nothing. A document is either learnt from or
    tested on, and gives a few texts.

    Args:
        length: tokens of a text, without special ones.
        tokens: about as many positions.

    Raises:
        InputError: the LM's tokenizer does not tell which characters a token stands for, or there is too little text.
    """
    if not lm.tokenizer.is_fast:
        raise InputError("eval.concepts", what.name, "an LM with a fast tokenizer, which tells where tokens are")
    texts: list[list[int]] = []
    labels: list[NDArray[np.bool_]] = []
    sources: list[int] = []
    generator = numpy_generator(seed, what.name)
    for source, text in enumerate(what.documents()):
        if len(texts) * length >= tokens:
            break
        ids, labels_TC = _labelled(what, lm, text)
        starts = np.arange(0, len(ids) - length + 1, length)
        for start in sorted(generator.permutation(starts)[:_MOST_OF_A_DOCUMENT].tolist()):
            texts.append(ids[start : start + length])
            labels.append(labels_TC[start : start + length])
            sources.append(source)
    known = np.unique(sources)
    tested = generator.permutation(known)[: round((1 - train_share) * len(known))]
    if len(texts) * length < tokens or len(tested) in (0, len(known)):
        valid = f"two documents' worth or more, and no more than there is in texts of {length}"
        raise InputError("eval.concept_tokens", tokens, valid)
    tokenized = framed(texts, lm.special)
    first = len(lm.special.prefix)
    labels_PC = torch.from_numpy(np.stack(labels))[tokenized.read_NT[:, first : first + length]]
    test_N = torch.from_numpy(np.isin(sources, tested))
    return Concepts(what.name, tokenized, what.names, labels_PC, test_N[tokenized.texts_P], what.minimum, _pairs(what))


def _pairs(what: SpanSet) -> tuple[tuple[int, int], ...]:
    place = what.names.index
    return tuple((place(general), place(one)) for general, special in what.hierarchy.items() for one in special)


def _labelled(what: SpanSet, lm: LM, text: str) -> tuple[list[int], NDArray[np.bool_]]:
    """Token ids, and which concepts hold at each, (T, C)."""
    at_character = np.zeros((len(text) + 1, len(what.names)), dtype=bool)
    column = {name: place for place, name in enumerate(what.names)}
    for concept, start, stop in what.spans(text):
        at_character[start:stop, column[concept]] = True
    for general, special in _pairs(what):
        at_character[:, general] |= at_character[:, special]
    ids, places = encode_with_places(lm.tokenizer, text)
    return ids, at_character[[_first_visible(text, *place) for place in places]]


def _first_visible(text: str, start: int, stop: int) -> int:
    """The end of the text, where nothing holds, for a token of white space alone."""
    hidden = stop - start - len(text[start:stop].lstrip())
    return start + hidden if hidden < stop - start else len(text)
