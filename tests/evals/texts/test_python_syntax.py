"""Concepts of Python's syntax at an LM's tokens."""

from typing import Any

import pytest
import torch

from masked_sae.activations.lm import LM, load_lm
from masked_sae.errors import InputError
from masked_sae.evals.texts.concepts import Concepts
from masked_sae.evals.texts.python_spans import CONCEPTS, HIERARCHY
from masked_sae.evals.texts.python_syntax import python_syntax
from masked_sae.text.documents import in_validation, stdlib_documents
from support.making import ROOT

LENGTH = 60


@pytest.fixture(scope="module")
def tiny() -> LM:
    return load_lm(str(ROOT / "assets" / "tiny_lm"), "blocks.2.hook_resid_post")


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


def test_files_are_learnt_from_or_tested_on_and_held_out_ones_come_first(concepts: Concepts, tiny: LM) -> None:
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


def test_too_little_source_is_refused(tiny: LM) -> None:
    for tokens in (1, 10**9):
        with pytest.raises(InputError, match=r"eval\.concept_tokens="):
            python_syntax(tiny, length=LENGTH, tokens=tokens, seed=0)


def test_a_tokenizer_that_does_not_tell_places_is_refused() -> None:
    class Slow:
        is_fast = False

    changed: Any = LM.__new__(LM)
    changed.tokenizer = Slow()
    with pytest.raises(InputError, match=r"eval\.concepts=python_syntax: expected an LM with a fast tokenizer"):
        python_syntax(changed, length=LENGTH, tokens=100, seed=0)
