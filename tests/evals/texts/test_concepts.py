"""Concepts on real tokenizers: which texts are read where, and what holds there."""

import string

import numpy as np
import pytest
import torch

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.sequences import Sequences, make_sequences
from masked_sae.errors import InputError
from masked_sae.evals.texts.concepts import TOKEN_CLASSES, Concepts, first_letter, token_class, vocabulary_strings
from support.making import ROOT


@pytest.fixture(scope="module")
def tiny() -> LM:
    """The embedded LM: byte-level BPE with words."""
    return load_lm(str(ROOT / "assets" / "tiny_lm"), "blocks.2.hook_resid_post")


def texts_of(concepts: Concepts, lm: LM) -> list[str]:
    reading = concepts.texts
    lengths = reading.lengths_N.tolist()
    return [lm.tokenizer.decode(ids[:n]) for ids, n in zip(reading.tokens_NT, lengths, strict=True)]


def words_of(concepts: Concepts, lm: LM) -> list[str]:
    return [lm.tokenizer.decode([token]) for token in concepts.texts.tokens_NT[concepts.texts.read_NT]]


def sequences_of(lm: LM, text: str, context_length: int = 8) -> Sequences:
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    return make_sequences(np.array(ids), context_length, lm.special)


def test_a_word_is_read_at_its_token_after_ten_solved_examples(tiny: LM) -> None:
    concepts = first_letter(tiny, words=60, seed=0)
    assert concepts.names == tuple(string.ascii_lowercase) and concepts.minimum == 20
    assert concepts.texts.count == len(concepts.labels_PC) == 60 and concepts.test_P.sum() == 12
    texts, words = texts_of(concepts, tiny), words_of(concepts, tiny)
    assert len(set(words)) == 60
    for text, word, labels_C in zip(texts, words, concepts.labels_PC, strict=True):
        lines = text.split("\n")
        assert lines[0] == "<|endoftext|>" and lines[-1] == f"{word} has the first letter:" and len(lines) == 12
        for line in lines[1:-1]:
            example = line.removesuffix(line[-24:])
            assert line == f"{example} has the first letter: {example.strip()[0].upper()}"
        assert labels_C.nonzero()[:, 0].tolist() == [string.ascii_lowercase.index(word.strip()[0].lower())]


def test_examples_are_other_words_of_the_same_side(tiny: LM) -> None:
    concepts = first_letter(tiny, words=60, seed=0)
    words, test = words_of(concepts, tiny), concepts.test_P.tolist()
    sides = [{word for word, is_test in zip(words, test, strict=True) if is_test == side} for side in (False, True)]
    for text, word, is_test in zip(texts_of(concepts, tiny), words, test, strict=True):
        examples = [line[:-24] for line in text.split("\n")[1:-1]]
        assert len(set(examples)) == 10 and set(examples) <= sides[is_test] - {word}


def test_all_alphabetic_tokens_and_no_others_are_words(tiny: LM) -> None:
    words = words_of(first_letter(tiny, seed=0), tiny)
    letters = set(string.ascii_letters)
    decoded = [tiny.tokenizer.decode([token]) for token in range(len(tiny.tokenizer))]
    assert sorted(words) == sorted(t for t in decoded if t.removeprefix(" ") and set(t.removeprefix(" ")) <= letters)


def test_a_seed_gives_the_same_words_and_another_gives_others(tiny: LM) -> None:
    digests = [first_letter(tiny, words=60, seed=seed).texts.digest() for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("model", ["neox", "bert"])
def test_texts_are_framed_as_the_lm_frames_them(model: str, request: pytest.FixtureRequest) -> None:
    lm: LM = request.getfixturevalue(model)
    concepts = first_letter(lm, examples=1, seed=0)
    reading, ends = concepts.texts, lm.special
    for tokens_T, length in zip(reading.tokens_NT.tolist(), reading.lengths_N.tolist(), strict=True):
        assert tuple(tokens_T[: len(ends.prefix)]) == ends.prefix
        assert tuple(tokens_T[length - len(ends.suffix) : length]) == ends.suffix
    assert (reading.read_NT.sum(1) == 1).all()
    assert set(words_of(concepts, lm)) == set(
        string.ascii_letters if model == "neox" else [*"abcdefghijklmnopqrstuvwxyz", "the", "of"]
    )


def test_too_few_words_or_too_long_a_text_is_refused(neox: LM, tiny: LM) -> None:
    with pytest.raises(InputError, match=r"eval\.concept_words=20: expected more than 10 alphabetic words"):
        first_letter(tiny, words=20, seed=0)
    with pytest.raises(InputError, match=r"eval\.concepts=first_letter: .* \d+ tokens: this one takes 64"):
        first_letter(neox, examples=2, seed=0)


def test_token_classes_are_those_of_the_tokens_strings(tiny: LM) -> None:
    text = "def value(self):\n    return None # Error 12 _name = 'x'"
    concepts = token_class(tiny, sequences_of(tiny, text, context_length=2), tokens=10_000, seed=0)
    ids = concepts.texts.tokens_NT[concepts.texts.read_NT].tolist()
    decoded = [tiny.tokenizer.decode([token]) for token in ids]
    assert text == "".join(decoded)
    held = {
        token: {name for name, holds in zip(concepts.names, row, strict=True) if holds}
        for token, row in zip(decoded, concepts.labels_PC.tolist(), strict=True)
    }
    assert held["def"] == {"keyword"}
    assert held[" value"] == {"leading space"}
    assert held["\n   "] == {"newline", "white space"}
    assert held[" return"] == {"keyword", "leading space"}
    assert held[" None"] == {"keyword", "leading space", "capitalised"}
    assert held[" #"] == {"punctuation", "leading space"}
    assert held[" _"] == {"punctuation", "underscore", "leading space"}


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("42", {"digit"}),
        ("):", {"punctuation", "bracket"}),
        (' "', {"punctuation", "quote", "leading space"}),
        ("__init", {"underscore"}),
        ("HTTP", {"capitalised"}),
        (" True", {"capitalised", "keyword", "leading space"}),
        ("    ", {"white space"}),
        ("\n\n", {"white space", "newline"}),
        ("x2", set()),
        ("", set()),
    ],
)
def test_each_class_holds_of_what_its_name_says(text: str, classes: set[str]) -> None:
    assert {name for name, holds in TOKEN_CLASSES.items() if holds(text)} == classes


@pytest.mark.parametrize("model", ["neox", "bert"])
def test_a_sequence_is_learnt_from_or_tested_on_and_special_tokens_are_not_read(
    model: str, request: pytest.FixtureRequest
) -> None:
    lm: LM = request.getfixturevalue(model)
    sequences = sequences_of(lm, "the of a b " * 60, context_length=12)
    concepts = token_class(lm, sequences, tokens=10 * sequences.content_length, seed=0)
    texts_P = concepts.texts.texts_P
    assert concepts.texts.count == 10
    tested = set(texts_P[concepts.test_P].tolist())
    assert len(tested) == 2 and tested.isdisjoint(texts_P[~concepts.test_P].tolist())
    assert not torch.isin(concepts.texts.tokens_NT[concepts.texts.read_NT], torch.tensor(lm.special.ids)).any()
    other = token_class(lm, sequences, tokens=10 * sequences.content_length, seed=1)
    assert other.texts.digest() == concepts.texts.digest() and not torch.equal(other.test_P, concepts.test_P)


def test_text_of_one_sequence_is_refused(tiny: LM) -> None:
    sequences = sequences_of(tiny, "import os, sys, re", context_length=6)
    with pytest.raises(InputError, match=r"eval\.concept_tokens=1: expected enough for 2"):
        token_class(tiny, sequences, tokens=1, seed=0)


def test_a_space_that_sentencepiece_hides_is_seen() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"▁the": 0, "of": 1, "▁": 2}, unk_token="of"))
    tokenizer.decoder = decoders.Metaspace()
    assert vocabulary_strings(PreTrainedTokenizerFast(tokenizer_object=tokenizer)) == [" the", "of", " "]
