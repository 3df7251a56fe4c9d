"""Where concepts hold in English prose, in characters: kinds of words, numbers and marks, told by their spelling."""

import re
from collections.abc import Iterator

from masked_sae.evals.texts.spans import Span

# General concepts, each with special cases of it: wherever one of these holds, so does the general one.
HIERARCHY: dict[str, tuple[str, ...]] = {
    "function word": ("article", "preposition", "pronoun", "conjunction", "auxiliary"),
    "content word": (
        "ends in -ing",
        "ends in -ed",
        "ends in -ly",
        "ends in -tion",
        "ends in -er",
        "ends in -s",
        "capitalised",
        "all capitals",
        "with an underscore",
    ),
    "number": ("single digit", "with a point"),
    "mark": ("comma", "full stop", "colon", "quote", "parenthesis"),
}
CONCEPTS = tuple(name for general, special in HIERARCHY.items() for name in (general, *special))

_WORDS = {
    "article": "a an the",
    "preposition": """about after against as at before between by during for from in into of on over through to under
        until upon with within without""",
    "pronoun": """he her his i it its me my our she that their them they these this those us we what which who you
        your""",
    "conjunction": "although and because but if nor or so than though unless when where whether while",
    "auxiliary": """am are be been being can could did do does had has have is may might must shall should was were
        will would""",
}
_FUNCTION_WORDS = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_ENDINGS = {ending: f"ends in -{ending}" for ending in ("ing", "ed", "ly", "tion", "er")}
_CURLY = "\u2018\u2019\u201c\u201d"
_MARKS = {
    ",": "comma",
    ".": "full stop",
    ":": "colon",
    **dict.fromkeys("\"'`" + _CURLY, "quote"),
    **dict.fromkeys("()", "parenthesis"),
}
_PIECE = re.compile(r"(?P<word>[^\W\d_]\w*(?:['\u2019][^\W\d_]+)?)|(?P<number>\d+(?:\.\d+)?)|(?P<mark>[^\w\s])")
_SHORTEST_STEM = 3  # letters before an ending; else "king" would end in -ing


def prose_spans(text: str) -> Iterator[Span]:
    """Of `CONCEPTS`, in a text."""
    for found in _PIECE.finditer(text):
        piece = found.group()
        for concept in {"word": _of_word, "number": _of_number, "mark": _of_mark}[found.lastgroup or ""](piece):
            yield Span(concept, *found.span())


def _of_word(word: str) -> Iterator[str]:
    kind = _FUNCTION_WORDS.get(word.lower())
    if kind is not None:
        yield from ("function word", kind)
        return
    yield "content word"
    if "_" in word:
        yield "with an underscore"
    if word.isupper() and len(word) > 1:
        yield "all capitals"
    elif word[0].isupper():
        yield "capitalised"
    ending = next((one for one in _ENDINGS if word.lower().endswith(one)), None)
    if ending is not None and len(word) >= _SHORTEST_STEM + len(ending):
        yield _ENDINGS[ending]
    elif word.endswith("s") and not word.endswith("ss") and len(word) > _SHORTEST_STEM:
        yield "ends in -s"


def _of_number(number: str) -> Iterator[str]:
    yield "number"
    if len(number) == 1:
        yield "single digit"
    if "." in number:
        yield "with a point"


def _of_mark(mark: str) -> Iterator[str]:
    yield "mark"
    if mark in _MARKS:
        yield _MARKS[mark]
