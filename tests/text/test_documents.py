import gzip
import json
import os
import random
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masked_sae.errors import InputError
from masked_sae.text.documents import (
    Document,
    content_digest,
    find_text_files,
    in_validation,
    stdlib_documents,
    text_documents,
)
from support.making import make_texts, write_jsonl, write_parquet


def read(*patterns: Path | str, column: str = "text") -> list[Document]:
    return list(text_documents(find_text_files([str(p) for p in patterns]), column))


@pytest.fixture(scope="module")
def stdlib() -> list[Document]:
    return list(stdlib_documents())


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_every_row_of_a_table_is_a_document(write: Callable[..., Path], tmp_path: Path) -> None:
    texts = [*make_texts(300), "naïve café ☕", "two\nlines"]  # more rows than a Parquet batch
    path = write(tmp_path / f"t.{write.__name__.split('_')[1]}", texts, column="body")
    assert [d.text for d in read(path, column="body")] == texts


def test_blank_rows_are_no_documents(tmp_path: Path) -> None:
    assert [d.text for d in read(write_jsonl(tmp_path / "t.jsonl", ["", "a", " \n"]))] == ["a"]
    assert [d.text for d in read(write_parquet(tmp_path / "t.parquet", ["", "a", " \n"]))] == ["a"]


def test_a_large_text_file_is_cut_into_pieces_that_join_to_it(tmp_path: Path) -> None:
    text = "\n\n".join(make_texts(500)) + "\n"
    (tmp_path / "t.txt").write_text(text)
    pieces = [d.text for d in read(tmp_path / "t.txt")]
    assert len(pieces) > 3
    assert "".join(pieces) == text
    assert all(piece.endswith("\n\n") for piece in pieces[:-1])


@settings(max_examples=25, deadline=None)
@given(
    lines=st.lists(st.sampled_from(["", "é" * 5_000, "x" * 17_000, "word " * 90, "\u2028"]), min_size=1, max_size=25)
)
def test_pieces_join_to_any_text_and_stay_small(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("pieces") / "t.txt"
    text = "start\n" + "\n".join(lines)
    path.write_text(text, encoding="utf-8")
    pieces = [d.text for d in read(path)]
    assert "".join(pieces).strip() == text.strip()
    assert max(map(len, pieces)) < 3 * 16_000


def test_one_endless_line_is_cut_too(tmp_path: Path) -> None:
    text = "".join(random.Random(0).choices("ab ", k=200_000))
    (tmp_path / "t.txt").write_text(text)
    pieces = [d.text for d in read(tmp_path / "t.txt")]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) < 3 * 16_000


def test_files_folders_and_globs_name_each_file_once(corpus_folder: Path) -> None:
    everything = find_text_files([str(corpus_folder)])
    assert [p.name for p in everything] == ["a.txt", "b.jsonl", "c.parquet"]
    assert find_text_files([str(corpus_folder / "*"), str(corpus_folder / "b.jsonl"), str(corpus_folder)]) == everything


def test_folders_and_double_star_globs_reach_nested_files(tmp_path: Path) -> None:
    nested = write_jsonl(tmp_path / "deep" / "er" / "t.jsonl", ["a"])
    (tmp_path / "README.md").write_text("left out")
    assert find_text_files([str(tmp_path)]) == [nested]
    assert find_text_files([f"{tmp_path}/**/*.jsonl"]) == [nested]
    assert find_text_files([f"{tmp_path}/**/*.md"]) == [tmp_path / "README.md"]


@pytest.mark.parametrize("suffix", [".md", ".py"])
def test_code_and_notes_are_cut_as_plain_text_is(suffix: str, tmp_path: Path) -> None:
    text = "\n\n".join(make_texts(200))
    for name in (f"t{suffix}", "t.txt"):
        (tmp_path / name).write_text(text)
    pieces = read(f"{tmp_path}/*{suffix}")
    assert pieces == read(tmp_path / "t.txt") and len(pieces) > 1


def test_what_no_text_is_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b")
    for pattern in ("t.csv", "*"):
        assert "files that end in one of .txt .md .py .jsonl .parquet" in refused(tmp_path / pattern)


def test_a_link_to_a_blob_keeps_the_suffix_of_its_name(tmp_path: Path) -> None:
    """As in the hub's cache, where every file links to `blobs/<digest>`."""
    write_jsonl(tmp_path / "blob", ["a", "b"])
    (tmp_path / "t.jsonl").symlink_to(tmp_path / "blob")
    assert [d.text for d in read(tmp_path / "t.jsonl")] == ["a", "b"]


def test_keys_depend_on_text_alone(texts: list[str], tmp_path: Path) -> None:
    one = read(write_jsonl(tmp_path / "one" / "x.jsonl", texts))
    other = read(write_parquet(tmp_path / "y.parquet", texts[::-1], column="body"), column="body")
    assert {d.key: d.text for d in one} == {d.key: d.text for d in other}
    assert len({d.key for d in one}) == len(texts)


def test_content_digest_depends_on_bytes_and_not_on_paths(tmp_path: Path) -> None:
    one, same, different = (write_jsonl(tmp_path / f"{n}.jsonl", [t]) for n, t in (("x", "a"), ("y", "a"), ("z", "b")))
    assert content_digest([one]) == content_digest([same])
    assert len({content_digest(files) for files in ([one], [different], [one, different], [one, one])}) == 4


def test_a_corpus_is_digested_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(bytes(200_000_000))

    def seconds() -> float:
        start = time.perf_counter()
        content_digest([path], tmp_path / "memory")
        return time.perf_counter() - start

    first, before = seconds(), content_digest([path], tmp_path / "memory")
    assert min(seconds() for _ in range(3)) < first / 20
    with path.open("r+b") as file:
        file.write(b"changed")
    assert content_digest([path], tmp_path / "memory") != before


def test_content_digest_tells_formats_apart(tmp_path: Path) -> None:
    """The same bytes are other documents in a .txt than in a .jsonl."""
    table = write_jsonl(tmp_path / "x.jsonl", ["a"])
    plain = tmp_path / "x.txt"
    plain.write_bytes(table.read_bytes())
    assert content_digest([table]) != content_digest([plain])


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.02, 0.98), salt=st.integers())
def test_the_split_is_near_its_share(share: float, salt: int) -> None:
    n = 4_000
    held_out = sum(in_validation(f"{salt}/{i}", share) for i in range(n))
    assert abs(held_out - n * share) < 5 * (n * share * (1 - share)) ** 0.5


@given(key=st.text(), share=st.floats(0, 1), more=st.floats(0, 1))
def test_a_larger_share_holds_out_the_same_documents_and_more(key: str, share: float, more: float) -> None:
    low, high = sorted((share, more))
    assert in_validation(key, low) <= in_validation(key, high)
    assert not in_validation(key, 0.0)
    assert in_validation(key, 1.0)


def test_the_split_is_the_same_in_every_process() -> None:
    keys = [f"stdlib/{i}.py" for i in range(200)]
    program = (
        "import sys; from masked_sae.text.documents import in_validation as v; print([v(k, 0.3) for k in sys.argv[1:]])"
    )
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        run = subprocess.run([sys.executable, "-c", program, *keys], env=environment, capture_output=True, check=True)
        assert run.stdout.decode().strip() == str([in_validation(key, 0.3) for key in keys])


def test_stdlib_is_source_and_topics_without_third_party_code_and_tests(stdlib: list[Document]) -> None:
    from pydoc_data.topics import topics

    keys = [d.key for d in stdlib]
    assert len(set(keys)) == len(keys)
    assert {"stdlib/abc.py", "stdlib/json/decoder.py", "pydoc/lambda"} <= set(keys)
    assert {k.removeprefix("pydoc/") for k in keys if k.startswith("pydoc/")} == set(topics)
    parts = {part for key in keys for part in key.split("/")[:-1]}
    assert not parts & {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    source = (Path(sysconfig.get_paths()["stdlib"]) / "abc.py").read_text()
    assert next(d.text for d in stdlib if d.key == "stdlib/abc.py") == source
    assert next(d.text for d in stdlib if d.key == "pydoc/lambda") == topics["lambda"]


def test_stdlib_is_millions_of_characters_in_a_fixed_order(stdlib: list[Document]) -> None:
    assert sum(len(d.text) for d in stdlib) > 5_000_000
    assert [d.key for d in stdlib] == [d.key for d in stdlib_documents()]


def refused(*patterns: Path | str, column: str = "text") -> str:
    with pytest.raises(InputError) as info:
        read(*patterns, column=column)
    message = str(info.value)
    assert message.startswith("data.path=")
    assert "\n" not in message
    return message


def test_a_path_that_names_nothing_is_refused(tmp_path: Path) -> None:
    for pattern in (tmp_path / "absent.txt", tmp_path, tmp_path / "*.jsonl"):
        assert str(pattern) in refused(pattern)


def test_a_file_with_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a")
    assert ".jsonl" in refused(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("t.txt", b"text\x00more", "NUL"),
        ("t.txt", b"caf\xe9 in latin-1", "UTF-8"),
        ("t.jsonl", b'{"text": "caf\xe9"}', "UTF-8"),
        ("t.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3"),
        ("t.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2"),
        ("t.jsonl", b'["text"]\n', "line 1"),
        ("t.jsonl", b'{"text": 5}\n', "'text'"),
        ("t.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2"),
        ("t.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: expected UTF-8 text"),
        ("t.jsonl", b'{"text": "a"}\n{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "line 2: expected one JSON"),
        ("t.jsonl", b'{"text": "a"}\n{"id": ' + b"9" * 10_000 + b', "text": "a"}', "line 2: expected one JSON"),
        ("t.jsonl", "\ufeff[]".encode("utf-16"), "UTF-8"),
        ("t.txt", b"one\ntwo\n" + gzip.compress(b"text", mtime=0), "line 3: expected UTF-8 text"),
        ("t.txt", gzip.compress(b"text", mtime=0), "UTF-8"),
        ("t.parquet", b"no parquet at all", "Parquet"),
        ("t.parquet", b"", "Parquet"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(name: str, content: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = refused(path)
    assert str(path) in message
    assert hint in message


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", make_texts(2000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + whole[-200:])
    assert str(path) in refused(path)


def test_a_missing_or_textless_column_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", ["a"], column="body")
    assert "'text'" in refused(path)
    assert "'id'" in refused(path, column="id")


def test_a_parquet_column_of_categories_is_text(tmp_path: Path) -> None:
    """What pandas writes for a categorical column."""
    texts = pa.array(["a", "b", "a"]).dictionary_encode()
    pq.write_table(pa.table({"text": texts}), tmp_path / "t.parquet")
    assert [d.text for d in read(tmp_path / "t.parquet")] == ["a", "b", "a"]


@contextmanager
def as_nobody() -> Generator[None]:
    """Root may read everything; without its rights for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("locked", ["file", "folder"])
def test_what_may_not_be_read_is_refused(locked: str, tmp_path: Path) -> None:
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):  # pytest's own folders let no one else in
        parent.chmod(0o755)
    path = write_jsonl(tmp_path / "secret" / "t.jsonl", ["a"])
    (path if locked == "file" else path.parent).chmod(0)
    try:
        with as_nobody():
            with pytest.raises(InputError, match=r"data\.path=.*secret") as info:
                read(path)
            with pytest.raises(InputError, match=r"data\.path=.*secret"):
                content_digest(find_text_files([str(path)]))
        assert "\n" not in str(info.value)
    finally:
        path.parent.chmod(0o755)


@pytest.mark.parametrize("name", ["t.txt", "t.jsonl"])
def test_a_mark_of_the_byte_order_is_no_text(name: str, tmp_path: Path) -> None:
    content = "words" if name == "t.txt" else json.dumps({"text": "words"})
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert [d.text for d in read(tmp_path / name)] == ["words"]


def test_what_json_escapes_is_text(tmp_path: Path) -> None:
    """NUL, and a pair of surrogates, which is one character."""
    (tmp_path / "t.jsonl").write_text('{"text": "a\\u0000b \\ud83d\\ude00"}\n')
    assert [d.text for d in read(tmp_path / "t.jsonl")] == ["a\0b \N{GRINNING FACE}"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.large_string())]
)
def test_every_kind_of_string_is_text_and_null_is_none(kind: pa.DataType, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(["a", None, "b"]).cast(kind)}), tmp_path / "t.parquet")
    assert [d.text for d in read(tmp_path / "t.parquet")] == ["a", "b"]


def test_parquet_that_does_not_tell_its_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for table, hint in [
        (pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), "one column 'text'; it has 2"),
        (pa.table({"text": pa.array([b"\xff"])}), "a string column 'text'"),
        (pa.table({"text": pa.array([["a"]])}), "a string column 'text'"),
        (pa.table({"text": pa.array([{"text": "a"}])}), "a string column 'text'"),
        (pa.table({"text": pa.nulls(2)}), "a string column 'text'"),
        (
            pa.table(
                {"text": pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))}
            ),
            "UTF-8",
        ),
    ]:
        pq.write_table(table, path)
        message = refused(path)
        assert hint in message and str(path) in message


def test_what_is_no_regular_file_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.txt")
    (tmp_path / "nowhere.txt").symlink_to(tmp_path / "absent")
    (tmp_path / "itself.txt").symlink_to(tmp_path / "itself.txt")
    for name in ("fifo.txt", "nowhere.txt", "itself.txt", "f*.txt"):
        assert str(tmp_path / name) in refused(tmp_path / name)
    assert "a link that leads to a file" in refused(tmp_path)
    for name in ("nowhere.txt", "itself.txt"):
        (tmp_path / name).unlink()
    (tmp_path / ".#t.txt").symlink_to("someone@host.1234")  # an editor's lock
    (tmp_path / "folder.txt").mkdir()
    write_jsonl(tmp_path / "folder.txt" / "t.jsonl", ["a"])
    assert [d.text for d in read(tmp_path)] == ["a"] == [d.text for d in read(tmp_path / "folder.txt")]


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", ["a"])
    files = find_text_files([str(path)])
    path.unlink()
    for reading in (lambda: content_digest(files), lambda: list(text_documents(files))):
        with pytest.raises(InputError, match=r"data\.path=.*t\.jsonl: expected a readable file"):
            reading()


@pytest.mark.parametrize("pattern", ["~nobody-of-this-name/t.txt", "a\0b.txt", "x" * 5000, "/proc/self/mem", "[", ""])
def test_a_path_that_can_be_none_is_refused(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(pattern)
