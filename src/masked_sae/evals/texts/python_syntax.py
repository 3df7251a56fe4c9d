"""Concepts of Python's syntax: general ones that occur with special cases of them, which is what absorption is about.

Axes: N texts, T positions, P read positions of all texts, in order, C concepts.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from masked_sae.activations.lm import LM
from masked_sae.errors import InputError
from masked_sae.evals.texts.concepts import TRAIN_SHARE, Concepts
from masked_sae.evals.texts.labelled import framed
from masked_sae.evals.texts.python_spans import CONCEPTS, HIERARCHY, python_spans
from masked_sae.randomness import numpy_generator
from masked_sae.text.documents import Document, stdlib_documents
from masked_sae.text.tokenizer import encode_with_places

_PLACE = {name: place for place, name in enumerate(CONCEPTS)}
_MOST_OF_A_FILE = 8  # texts


def python_syntax(
    lm: LM, *, length: int, tokens: int, train_share: float = TRAIN_SHARE, seed: int, minimum: int = 10
) -> Concepts:
    """What each token of the standard library's source is to `ast` and `tokenize`.

    A token is what its first visible character is; one without any is nothing. The files are those that a split of any
    share holds out first. A file is either learnt from or tested on.

    Args:
        length: tokens of a text, without special ones.
        tokens: about as many positions.

    Raises:
        InputError: the LM's tokenizer does not tell which characters a token stands for, or there is too little source.
    """
    if not lm.tokenizer.is_fast:
        raise InputError("eval.concepts", "python_syntax", "an LM with a fast tokenizer, which tells where tokens are")
    texts: list[list[int]] = []
    labels: list[NDArray[np.bool_]] = []
    files: list[int] = []
    generator = numpy_generator(seed, "python syntax")
    for file, document in enumerate(_held_out_first()):
        if len(texts) * length >= tokens:
            break
        ids, labels_TC = _labelled(lm, document)
        starts = np.arange(0, len(ids) - length + 1, length)
        for start in sorted(generator.permutation(starts)[:_MOST_OF_A_FILE].tolist()):
            texts.append(ids[start : start + length])
            labels.append(labels_TC[start : start + length])
            files.append(file)
    names = np.unique(files)
    tested = generator.permutation(names)[: round((1 - train_share) * len(names))]
    if len(texts) * length < tokens or len(tested) in (0, len(names)):
        valid = f"2 files' worth, and no more than the standard library has in texts of {length}"
        raise InputError("eval.concept_tokens", tokens, valid)
    tokenized = framed(texts, lm.special)
    read_NT = tokenized.read_NT[:, len(lm.special.prefix) :][:, :length]
    labels_PC = torch.from_numpy(np.stack(labels))[read_NT]
    test_N = torch.from_numpy(np.isin(files, tested))
    pairs = tuple((_PLACE[general], _PLACE[one]) for general, special in HIERARCHY.items() for one in special)
    return Concepts("python_syntax", tokenized, CONCEPTS, labels_PC, test_N[tokenized.texts_P], minimum, pairs)


def _held_out_first() -> Sequence[Document]:
    """Modules by the digest that decides their split: whatever the share, those that are held out come first."""
    modules = [document for document in stdlib_documents() if document.key.startswith("stdlib/")]
    return sorted(modules, key=lambda one: hashlib.blake2b(one.key.encode(), digest_size=8).digest())


def _labelled(lm: LM, document: Document) -> tuple[list[int], NDArray[np.bool_]]:
    """Token ids, and which concepts hold at each, (T, C)."""
    text = document.text
    at_character = np.zeros((len(text) + 1, len(CONCEPTS)), dtype=bool)
    for concept, start, stop in python_spans(text):
        at_character[start:stop, _PLACE[concept]] = True
    for general, special in HIERARCHY.items():
        at_character[:, _PLACE[general]] |= at_character[:, [_PLACE[one] for one in special]].any(1)
    ids, places = encode_with_places(lm.tokenizer, text)
    first = [_first_visible(text, *place) for place in places]
    return ids, at_character[first]


def _first_visible(text: str, start: int, stop: int) -> int:
    """The end of the text, where nothing holds, for a token of white space alone."""
    hidden = stop - start - len(text[start:stop].lstrip())
    return start + hidden if hidden < stop - start else len(text)
