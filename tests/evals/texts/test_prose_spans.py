"""Kinds of words, numbers and marks, against text written for the purpose."""

import pytest

from masked_sae.evals.texts.prose_spans import CONCEPTS, HIERARCHY, prose_spans

TEXT = "The king, who is running quickly, isn't \"HTTP\": 7 of 3.14 readers wanted my_list (or the nation's)."


def held(concept: str, text: str = TEXT) -> list[str]:
    return [text[start:stop] for name, start, stop in prose_spans(text) if name == concept]


@pytest.mark.parametrize(
    ("concept", "words"),
    [
        ("article", ["The", "the"]),
        ("preposition", ["of"]),
        ("pronoun", ["who"]),
        ("conjunction", ["or"]),
        ("auxiliary", ["is"]),
        ("content word", ["king", "running", "quickly", "isn't", "HTTP", "readers", "wanted", "my_list", "nation's"]),
        ("ends in -ing", ["running"]),
        ("ends in -ly", ["quickly"]),
        ("ends in -ed", ["wanted"]),
        ("ends in -s", ["readers", "nation's"]),
        ("ends in -tion", []),
        ("all capitals", ["HTTP"]),
        ("capitalised", []),
        ("with an underscore", ["my_list"]),
        ("number", ["7", "3.14"]),
        ("single digit", ["7"]),
        ("with a point", ["3.14"]),
        ("comma", [",", ","]),
        ("quote", ['"', '"']),
        ("parenthesis", ["(", ")"]),
        ("full stop", ["."]),
        ("colon", [":"]),
    ],
)
def test_each_concept_holds_of_what_its_name_says(concept: str, words: list[str]) -> None:
    assert held(concept) == words


def test_an_ending_needs_a_stem_and_a_name_keeps_its_capital() -> None:
    assert held("ends in -ing", "king sing hiking") == ["hiking"]
    assert held("ends in -s", "gas glass Paris") == ["Paris"]
    assert held("capitalised", "Paris I PARIS") == ["Paris"]


def test_special_cases_are_their_general_concepts() -> None:
    spans = list(prose_spans(TEXT * 3))
    assert {concept for concept, *_ in spans} <= set(CONCEPTS)
    for general, special in HIERARCHY.items():
        whole = {(start, stop) for concept, start, stop in spans if concept == general}
        assert {(start, stop) for concept, start, stop in spans if concept in special} <= whole
