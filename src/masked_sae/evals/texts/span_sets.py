"""The sets of concepts that hold over stretches of the standard library's text."""

from collections.abc import Iterator

from masked_sae.evals.texts import prose_spans as prose
from masked_sae.evals.texts import python_spans as syntax
from masked_sae.evals.texts.spans import SpanSet
from masked_sae.evals.texts.stdlib import code_and_prose
from masked_sae.text.documents import Document, split_place, stdlib_documents


def _held_out_first() -> list[Document]:
    """Whatever the share that is held out, documents that are come first."""
    return sorted(stdlib_documents(), key=lambda document: split_place(document.key))


def _modules() -> Iterator[str]:
    return (document.text for document in _held_out_first() if document.key.startswith("stdlib/"))


def _prose() -> Iterator[str]:
    """Docstrings of a module, and topics of `pydoc`."""
    for document in _held_out_first():
        text = code_and_prose(document)[1] if document.key.startswith("stdlib/") else document.text
        if text.strip():
            yield text


SPAN_SETS = {
    one.name: one
    for one in (
        SpanSet("python_syntax", syntax.CONCEPTS, syntax.HIERARCHY, syntax.python_spans, _modules),
        SpanSet("prose", prose.CONCEPTS, prose.HIERARCHY, prose.prose_spans, _prose),
    )
}
