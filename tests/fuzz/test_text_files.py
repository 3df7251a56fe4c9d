"""Whatever lies in a file of text: its documents come of it, or one line says what is wrong."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masked_sae.errors import InputError
from masked_sae.text.documents import content_digest, find_text_files, text_documents
from support.making import make_texts

QUICK, LONG = 150, 800
ANYWHERE = {"deadline": None, "suppress_health_check": list(HealthCheck)}

texts = st.text(max_size=20)  # half surrogates too, which no file of UTF-8 can hold
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "id", ""]), inner, max_size=3),
)
rows = st.one_of(st.fixed_dictionaries({"text": st.one_of(texts, json_values)}), json_values)


def budgets(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("examples", [QUICK, pytest.param(LONG, marks=pytest.mark.long)])(test)


def documents_or_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    files = find_text_files([str(path)])
    content_digest(files)
    try:
        for document in text_documents(files):
            assert document.text.strip() and document.key.isalnum()
            document.text.encode()
    except InputError as error:
        assert str(error).startswith(f"data.path={path}") and "\n" not in str(error)


@budgets
def test_bytes(examples: int, tmp_path: Path) -> None:
    beginnings = st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"PAR1", b"\x1f\x8b", b'{"text": "', b"\0"])

    @settings(max_examples=examples, **ANYWHERE)
    @given(
        st.sampled_from(["txt", "jsonl", "parquet"]),
        beginnings,
        st.binary(max_size=60),
        st.sampled_from([b"", b"PAR1"]),
    )
    def holds(suffix: str, first: bytes, content: bytes, last: bytes) -> None:
        documents_or_one_line(tmp_path / f"t.{suffix}", first + content + last)

    holds()


@budgets
def test_json_lines(examples: int, tmp_path: Path) -> None:
    @settings(max_examples=examples, **ANYWHERE)
    @given(st.lists(rows, max_size=4), st.booleans(), st.data())
    def holds(made: list[Any], ascii_only: bool, data: st.DataObject) -> None:
        content = b"\n".join(json.dumps(row, ensure_ascii=ascii_only).encode(errors="surrogatepass") for row in made)
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.one_of(st.just(start), st.integers(start, len(content))))
        documents_or_one_line(tmp_path / "t.jsonl", content[:start] + data.draw(st.binary(max_size=3)) + content[stop:])

    holds()


def parquet_files() -> list[bytes]:
    found: list[bytes] = []
    for kind, compression in (
        (pa.string(), "snappy"),
        (pa.dictionary(pa.int32(), pa.string()), "zstd"),
        (pa.large_string(), "none"),
    ):
        sink = io.BytesIO()
        column = pa.array([*make_texts(8), None]).cast(kind)
        pq.write_table(pa.table({"text": column, "id": list(range(9))}), sink, compression=compression)
        found.append(sink.getvalue())
    return found


@budgets
def test_parquet(examples: int, tmp_path: Path) -> None:
    whole = parquet_files()

    @settings(max_examples=examples, **ANYWHERE)
    @given(st.sampled_from(whole), st.data())
    def holds(content: bytes, data: st.DataObject) -> None:
        changed = bytearray(content)
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        for _ in range(data.draw(st.integers(0, 4))):
            place = data.draw(st.one_of(st.integers(footer, len(content) - 1), st.integers(0, len(content) - 1)))
            changed[place] = data.draw(st.integers(0, 255))
        start = data.draw(st.integers(0, len(changed)))
        stop = data.draw(st.one_of(st.just(start), st.integers(start, len(changed))))
        documents_or_one_line(tmp_path / "t.parquet", bytes(changed[:start] + changed[stop:]))

    holds()
