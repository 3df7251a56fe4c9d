"""Text in: documents from the standard library, from files, or from a Hugging Face dataset."""

import glob
import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masked_sae.digests import of_all, sha256
from masked_sae.errors import InputError, first_line
from masked_sae.text.hub_datasets import stream_rows

PLAIN_SUFFIXES = (".txt", ".md", ".py")
TEXT_SUFFIXES = (*PLAIN_SUFFIXES, ".jsonl", ".parquet")
_OF_A_FOLDER = (".txt", ".jsonl", ".parquet")  # a README beside a corpus is no text of it
TEXT_COLUMN = "text"
_PIECE_CHARACTERS = 16_000
_ENCODING = "utf-8-sig"  # UTF-8; a mark of the byte order before it is no text

# Folders that not every Python installation carries, third-party code, and tables that are no language.
_STDLIB_SKIPPED = frozenset(
    "test tests idle_test idlelib lib2to3 tkinter turtledemo ensurepip encodings "
    "site-packages dist-packages __pycache__ __phello__ pydoc_data".split()
)


@dataclass(frozen=True)
class Document:
    """One text. `key` names it independently of where it lies, and decides its split."""

    key: str
    text: str


def in_validation(key: str, share: float) -> bool:
    """Whether a document is held out: a fixed pseudo-random choice by its key, the same on every machine."""
    return split_place(key) < share * 2**64


def split_place(key: str) -> int:
    """A document's place in the order in which a growing share holds documents out."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def stdlib_documents() -> Iterator[Document]:
    """The running Python's standard library: every module's source, then every `pydoc` topic, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        generated = name.name.startswith("_sysconfigdata") or name.parts[0].startswith("config-")
        if generated or _STDLIB_SKIPPED.intersection(name.parts[:-1]):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a few modules declare another encoding on purpose
        if text.strip():
            yield Document(key=f"stdlib/{name.as_posix()}", text=text)
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield Document(key=f"pydoc/{topic}", text=topics[topic])


def find_text_files(patterns: Sequence[str]) -> list[Path]:
    """The files of text that files, folders and globs name, sorted, each once.

    A folder stands for its .txt, .jsonl and .parquet; .md and .py are named, as by `src/**/*.py`.

    Raises:
        InputError: a pattern names nothing, or a named file has another suffix.
    """
    found: dict[Path, Path] = {}  # by what a name leads to; the name itself tells the format
    for pattern in patterns:
        try:
            matches = _matches(Path(pattern).expanduser())
        except OSError as error:
            raise InputError("data.path", pattern, f"a readable path ({error.strerror or error})") from error
        except (RuntimeError, ValueError) as error:  # no such user's home; NUL
            raise InputError("data.path", repr(pattern), f"a path ({first_line(error)})") from error
        if not matches:
            valid = (
                "a file or glob of .txt, .md, .py, .jsonl or .parquet, or a folder that holds .txt, .jsonl or .parquet"
            )
            raise InputError("data.path", pattern, valid)
        for match in matches:
            if match.suffix not in TEXT_SUFFIXES:
                raise InputError("data.path", match, f"files that end in one of {' '.join(TEXT_SUFFIXES)}")
        for match in matches:
            found.setdefault(match.resolve(), match.absolute())
    return sorted(found.values())


def _matches(path: Path) -> list[Path]:
    """Regular files; in a folder those of text. What would wait for a writer (a FIFO) is none."""
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix in _OF_A_FOLDER]
        for one in found:
            if one.is_symlink() and not one.exists() and not one.name.startswith("."):  # editors' locks are such links
                raise InputError("data.path", one, "a link that leads to a file")
        return sorted(one for one in found if one.is_file())
    if path.is_file():
        return [path]
    names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - absolute patterns, too
    return [Path(name) for name in sorted(names) if Path(name).is_file()]


def text_documents(files: Sequence[Path], column: str = TEXT_COLUMN) -> Iterator[Document]:
    """The documents of text files: one per row of a .jsonl or .parquet (in `column`); plain text is cut into pieces.

    Pieces end at blank lines and have about 16,000 characters, so that a single large file can be held
    out in part, and is never in memory as a whole.

    A document's key is its text's digest, so the split does not depend on file names.

    Raises:
        InputError: a file cannot be read, is not UTF-8 text, or lacks the column.
    """
    for path in files:
        try:
            for text in _texts_of(path, column):
                if text.strip():
                    yield Document(key=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), text=text)
        except OSError as error:
            raise InputError("data.path", path, f"a readable file ({error.strerror or error})") from error
        except UnicodeError as error:
            raise InputError("data.path", _undecodable(path), f"UTF-8 text ({error})") from error


def _undecodable(path: Path) -> str:
    """Where a file is not UTF-8."""
    if path.suffix != ".parquet":
        with suppress(OSError), path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return f"{path}, line {number}"
    return str(path)


def _texts_of(path: Path, column: str) -> Iterator[str]:
    if path.suffix in PLAIN_SUFFIXES:
        yield from _pieces_of(path)
    elif path.suffix == ".jsonl":
        with path.open(encoding=_ENCODING) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _text_of_row(line, column, f"{path}, line {number}")
    else:
        yield from _texts_of_parquet(path, column)


def _pieces_of(path: Path) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    with path.open(encoding=_ENCODING) as file:
        while line := file.readline(_PIECE_CHARACTERS):  # bounded: a file may be one endless line
            if "\x00" in line:
                raise InputError("data.path", path, "text (it holds NUL bytes)")
            piece.append(line)
            size += len(line)
            if (size >= _PIECE_CHARACTERS and not line.strip()) or size >= 2 * _PIECE_CHARACTERS:
                yield "".join(piece)
                piece, size = [], 0
    yield "".join(piece)


def _text_of_row(line: str, column: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: of JSON, or of a number without end
        raise InputError("data.path", where, f"one JSON object a line ({first_line(error)})") from error
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise InputError("data.path", where, f"a JSON object with a string in {column!r} (set data.column)")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a pair, "\ud800"
        raise InputError("data.path", where, f"UTF-8 text ({error})") from error
    return text


def _texts_of_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            of_this_name = file.schema_arrow.names.count(column)
            if of_this_name > 1:
                raise InputError("data.path", path, f"one column {column!r}; it has {of_this_name} (set data.column)")
            kind = file.schema_arrow.field(column).type if of_this_name else None
            if kind is not None and pa.types.is_dictionary(kind):
                kind = kind.value_type
            if kind is None or not any(is_text(kind) for is_text in _text_types()):
                raise InputError("data.path", path, f"a Parquet file with a string column {column!r} (set data.column)")
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                yield from (text for text in batch.column(0).to_pylist() if text)
    except (pa.ArrowException, MemoryError) as error:  # damaged, it may ask for more memory than there is
        raise InputError("data.path", path, f"a Parquet file ({first_line(error)})") from error


def _text_types() -> list[Callable[[Any], bool]]:
    import pyarrow as pa

    return [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view]


def content_digest(files: Sequence[Path], memory: Path | None = None, *, progress: bool = False) -> str:
    """One digest of the files' formats and bytes, in order; paths and times do not enter.

    Args:
        memory, progress: see `digests.sha256`.
    """
    parts: list[str] = []
    for path in files:
        try:
            parts += [path.suffix, sha256(path, memory, progress=progress)]
        except OSError as error:
            raise InputError("data.path", path, f"a readable file ({error.strerror or error})") from error
    return of_all(parts)


def hub_documents(name: str, split: str, column: str, revision: str | None) -> Iterator[Document]:
    """The rows of a Hugging Face dataset, streamed; its own order.

    Raises:
        InputError: the dataset cannot be reached, or lacks the split or the column.
    """
    try:
        for row in stream_rows(name, split, revision):
            text = row.get(column)
            if not isinstance(text, str):
                raise InputError("data.column", column, f"a text column of {name}: {', '.join(row)}")
            if text.strip():
                yield Document(key=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), text=text)
    except InputError:
        raise
    except Exception as error:  # whatever a library says of what anybody has written
        reason = first_line(error.__cause__ or error)
        valid = f"a dataset with split {split!r} that can be reached and read, or data=text with local files ({reason})"
        if not os.path.isdir(name):  # noqa: PTH112 - pathlib refuses some names
            valid += f"; for machines without a network `hf download {name} --repo-type dataset` and HF_HUB_OFFLINE=1"
        raise InputError("data.name", name, valid) from error
