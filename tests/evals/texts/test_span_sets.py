"""Concepts that hold over stretches of text, at an LM's tokens."""

from dataclasses import replace
from itertools import islice
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

from masked_sae.activations.lm import LM, load_lm
from masked_sae.errors import InputError
from masked_sae.evals.texts.concepts import Concepts
from masked_sae.evals.texts.python_spans import CONCEPTS, HIERARCHY
from masked_sae.evals.texts.span_sets import SPAN_SETS
from masked_sae.evals.texts.spans import concepts_of_spans
from masked_sae.evals.texts.stdlib import code_and_prose
from masked_sae.text.documents import Document, in_validation, split_place, stdlib_documents
from support.making import ROOT, own_modules

LENGTH = 60


@pytest.fixture(scope="module")
def tiny() -> LM:
    return load_lm(str(ROOT / "assets" / "tiny_lm"), "blocks.2.hook_resid_post")


def python_syntax(lm: LM, *, length: int, tokens: int, seed: int) -> Concepts:
    """Of this project's modules."""
    here = replace(SPAN_SETS["python_syntax"], documents=own_modules)
    return concepts_of_spans(here, lm, length=length, tokens=tokens, seed=seed)


@pytest.fixture(scope="module")
def concepts(tiny: LM) -> Concepts:
    return python_syntax(tiny, length=LENGTH, tokens=6000, seed=0)


def words_with(concept: str, concepts: Concepts, lm: LM) -> set[str]:
    tokens_P = concepts.texts.tokens_NT[concepts.texts.read_NT]
    rows = concepts.labels_PC[:, CONCEPTS.index(concept)]
    return {lm.tokenizer.decode([token]) for token in tokens_P[rows].tolist()}


def test_labels_are_those_of_the_tokens(concepts: Concepts, tiny: LM) -> None:
    assert {word.strip() for word in words_with("self", concepts, tiny)} <= {"self", "se", "s", "(self"}
    assert {word.strip() for word in words_with("return", concepts, tiny)} == {"return"}
    tokens_P = concepts.texts.tokens_NT[concepts.texts.read_NT].tolist()
    for token, labels_C in zip(tokens_P, concepts.labels_PC, strict=True):
        if not tiny.tokenizer.decode([token]).strip():
            assert not labels_C.any()  # white space is nothing


def test_most_tokens_have_a_concept_and_every_kind_occurs(concepts: Concepts) -> None:
    assert 0.6 < concepts.labels_PC.any(1).double().mean() < 1
    assert int((concepts.labels_PC.sum(0) > 0).sum()) > 35


def test_a_general_concept_holds_wherever_a_special_case_does(concepts: Concepts) -> None:
    names = [(concepts.names[general], concepts.names[special]) for general, special in concepts.pairs]
    assert names == [(general, one) for general, special in HIERARCHY.items() for one in special]
    for general, special in concepts.pairs:
        assert not (concepts.labels_PC[:, special] & ~concepts.labels_PC[:, general]).any()


def test_files_are_learnt_from_or_tested_on_and_held_out_ones_come_first(tiny: LM) -> None:
    """Of the standard library."""
    concepts = concepts_of_spans(SPAN_SETS["python_syntax"], tiny, length=LENGTH, tokens=6000, seed=0)
    texts_P = concepts.texts.texts_P
    tested = set(texts_P[concepts.test_P].tolist())
    assert 0 < len(tested) < concepts.texts.count
    assert tested.isdisjoint(texts_P[~concepts.test_P].tolist())
    assert len(concepts.labels_PC) == concepts.texts.count * LENGTH
    held_out = [one.text for one in stdlib_documents() if in_validation(one.key, 0.05)]
    texts = [tiny.tokenizer.decode(row[len(tiny.special.prefix) :]) for row in concepts.texts.tokens_NT]
    assert all(any(text in whole for whole in held_out) for text in texts)


def test_the_seed_draws_texts_and_sides(concepts: Concepts, tiny: LM) -> None:
    again, other = (python_syntax(tiny, length=LENGTH, tokens=6000, seed=seed) for seed in (0, 1))
    assert again.texts.digest() == concepts.texts.digest() and torch.equal(again.test_P, concepts.test_P)
    assert other.texts.digest() != concepts.texts.digest()


@pytest.mark.parametrize(("documents", "tokens"), [(1, 60), (3, 10_000)])
def test_too_little_text_is_refused(documents: int, tokens: int, tiny: LM) -> None:
    small = replace(SPAN_SETS["prose"], documents=lambda: ["two words and a number 7, " * 100] * documents)
    with pytest.raises(InputError, match=r"eval\.concept_tokens="):
        concepts_of_spans(small, tiny, length=LENGTH, tokens=tokens, seed=0)


def test_prose_is_docstrings_and_topics() -> None:
    texts = list(islice(SPAN_SETS["prose"].documents(), 20))
    rest = [text for text in texts if text not in set(topics.values())]
    assert 0 < len(rest) < len(texts)
    documents = [one for one in stdlib_documents() if one.key.startswith("stdlib/")]
    docstrings = {code_and_prose(one)[1] for one in sorted(documents, key=lambda one: split_place(one.key))[:40]}
    assert set(rest) <= docstrings


def test_pieces_of_words_in_prose_are_labelled_alike(bert: LM) -> None:
    """A tokenizer of single letters: all letters of a word have what the word has."""
    docstrings = [code_and_prose(Document("", source))[1] for source in own_modules()]
    here = replace(SPAN_SETS["prose"], documents=lambda: docstrings)
    prose = concepts_of_spans(here, bert, length=40, tokens=2000, seed=0)
    assert prose.set_name == "prose" and int(prose.texts.read_NT.sum()) == len(prose.labels_PC)
    of = {name: prose.labels_PC[:, place] for place, name in enumerate(prose.names)}
    letters_P = prose.texts.tokens_NT[prose.texts.read_NT]
    words = bert.tokenizer.convert_ids_to_tokens(letters_P)
    continued_P = torch.tensor([word.startswith("##") for word in words])
    the_P = torch.tensor([word == "the" for word in words])[:-1] & ~continued_P[1:]
    assert of["article"][:-1][the_P].all() and int(the_P.sum()) > 5
    pairs = (continued_P[1:] & (prose.texts.texts_P[1:] == prose.texts.texts_P[:-1])).nonzero()[:, 0] + 1
    assert len(pairs) > 500 and torch.equal(prose.labels_PC[pairs], prose.labels_PC[pairs - 1])


def test_a_tokenizer_that_does_not_tell_places_is_refused() -> None:
    class Slow:
        is_fast = False

    changed: Any = LM.__new__(LM)
    changed.tokenizer = Slow()
    with pytest.raises(InputError, match=r"eval\.concepts=python_syntax: expected an LM with a fast tokenizer"):
        python_syntax(changed, length=LENGTH, tokens=100, seed=0)
