"""Spans in Python source, against source written for the purpose and against the running Python's own library."""

import ast
import io
import keyword
import tokenize
from pathlib import Path

import pytest

from masked_sae.evals.texts.python_spans import CONCEPTS, HIERARCHY, python_spans
from masked_sae.text.documents import stdlib_documents

SOURCE = '''"""Ä module."""
import os.path
import numpy as np
from x import y

LIMIT = 1.5

@np.wraps(y)
class Thing(Base):
    """It has one."""
    def run(self, n: int = 3, *, _deep=None) -> str:
        # größer, longer
        for é in range(n):
            if é >= LIMIT and not os.x:
                return self.go(é, key="ä")[é]
        return f"{n} and {os.y}" if True else len
'''


def held(concept: str, source: str = SOURCE) -> list[str]:
    found = sorted((start, stop) for name, start, stop in python_spans(source) if name == concept)
    return [source[start:stop] for start, stop in found]


@pytest.mark.parametrize(
    ("concept", "texts"),
    [
        ("self", ["self", "self"]),
        ("imported module", ["np", "os", "os"]),
        ("builtin", ["int", "str", "range", "len"]),
        ("private name", ["_deep"]),
        ("constant name", ["LIMIT", "LIMIT"]),
        ("attribute", ["wraps", "x", "go"]),
        ("parameter", ["self", "n", "_deep"]),
        ("keyword argument", ["key"]),
        ("called function", ["wraps", "range", "go"]),
        ("assigned name", ["LIMIT", "é"]),
        ("defined function", ["run"]),
        ("defined class", ["Thing"]),
        ("None", ["None"]),
        ("True or False", ["True"]),
        ("number", ["1.5", "3"]),
        ("string", ['"""Ä module."""', '"""It has one."""', '"ä"', 'f"{n} and {os.y}"']),
        ("docstring", ['"""Ä module."""', '"""It has one."""']),
        ("return", ["return", "return"]),
        ("not", ["not"]),
        ("comparison", [">="]),
        ("equals", ["=", "=", "=", "="]),
        ("comment", ["# größer, longer"]),
        ("argument", ["y", "n", "é", 'key="ä"']),
        ("decorator", ["np.wraps(y)"]),
        ("default value", ["3", "None"]),
        ("condition", ["é >= LIMIT and not os.x", "True"]),
        ("subscript", ["é"]),
    ],
)
def test_each_concept_holds_of_what_its_name_says(concept: str, texts: list[str]) -> None:
    found = held(concept)
    assert found == texts if concept != "imported module" else set(found) == {"np", "os"}


def test_bodies_reach_from_their_first_statement_to_their_last() -> None:
    (body,) = held("class body")
    assert body.startswith('"""It has one."""') and body.endswith("else len")
    (loop,) = held("loop body")
    assert loop.startswith("if é") and loop.endswith("[é]")


def test_nothing_inside_an_f_string_is_told() -> None:
    source = 'x = f"{self.a!r:>{width}} {None}"\n'
    assert held("string", source) == [source[4:-1]]
    for concept in ("self", "None", "attribute", "operator"):
        assert held(concept, source) == (["="] if concept == "operator" else [])


def test_special_cases_lie_within_their_general_concept() -> None:
    """On a tenth of the library: every special case is exactly a token of the general kind, by `tokenize` alone."""
    documents = [one for one in stdlib_documents() if one.key.startswith("stdlib/")][::10]
    assert documents
    for document in documents:
        spans = python_spans(document.text)
        assert {concept for concept, *_ in spans} <= set(CONCEPTS)
        for general in ("identifier", "keyword", "operator"):
            whole = {(start, stop) for concept, start, stop in spans if concept == general}
            for concept, start, stop in spans:
                if concept in HIERARCHY[general]:
                    assert (start, stop) in whole, (document.key, concept, document.text[start:stop])
        literals = [(start, stop) for concept, start, stop in spans if concept == "literal"]
        for concept, start, _ in spans:
            if concept == "docstring":
                assert any(first <= start < last for first, last in literals)


def test_identifiers_are_the_names_that_are_no_keywords() -> None:
    """Outside f-strings, which `tokenize` takes apart since Python 3.12."""
    source = Path(ast.__file__).read_text(encoding="utf-8")
    names: list[str] = []
    within = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        within += kind.endswith("STRING_START") - kind.endswith("STRING_END")
        if kind == "NAME" and within == 0 and not keyword.iskeyword(token.string):
            names.append(token.string)
    assert held("identifier", source) == names


@pytest.mark.parametrize("source", ["def f(:\n", "x = '\n", "print 'old'\n", "\x00"])
def test_what_is_no_python_is_refused(source: str) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        python_spans(source)
