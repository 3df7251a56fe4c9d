import copy
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masked_sae.activations.sequences import Sequences, stretches
from masked_sae.errors import InputError
from masked_sae.text.documents import Document, in_validation
from masked_sae.text.store import TokenStore, open_or_build, store_key
from masked_sae.text.tokenizer import special_tokens
from support.making import make_texts

KEY, SEPARATOR, SHARE = "thekey", 0, 0.2
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [Document(f"key {i}", text) for i, text in enumerate(make_texts(150))]


def build(
    folder: Path, documents: Any, tokenizer: Any, separator: int | None = SEPARATOR, **changes: Any
) -> TokenStore:
    return open_or_build(folder, KEY, documents, tokenizer, separator, SHARE, progress=False, **changes)


def tokenized(
    documents: list[Document], tokenizer: Any, separator: int | None, held_out: bool, share: float = SHARE
) -> list[int]:
    """By the tokenizer alone, one document at a time."""
    ids: list[int] = []
    for document in documents:
        if in_validation(document.key, share) == held_out:
            ids += tokenizer.encode(document.text, add_special_tokens=False)
            ids += [] if separator is None else [separator]
    return ids


@pytest.mark.parametrize("separator", [SEPARATOR, None, 7])
def test_a_store_holds_each_splits_documents_tokenized(
    separator: int | None, documents: list[Document], neox_tokenizer: Any, tmp_path: Path
) -> None:
    store = build(tmp_path, documents, neox_tokenizer, separator)
    for name, held_out in (("train", False), ("validation", True)):
        expected = tokenized(documents, neox_tokenizer, separator, held_out)
        meta = getattr(store.meta, name)
        assert store.split(name).tolist() == expected
        assert meta.tokens == len(expected)
        assert meta.documents == sum(in_validation(d.key, SHARE) == held_out for d in documents)
        assert meta.special == expected.count(SEPARATOR)


def test_a_store_holds_no_special_tokens_of_an_encoder(
    documents: list[Document], bert_tokenizer: Any, tmp_path: Path
) -> None:
    lower = [Document(d.key, "".join(c for c in d.text if c.isalpha() or c == " ")) for d in documents]
    tokens = build(tmp_path, lower, bert_tokenizer, bert_tokenizer.sep_token_id).split("train")
    assert bert_tokenizer.cls_token_id not in tokens
    assert (tokens == bert_tokenizer.sep_token_id).sum() == sum(not in_validation(d.key, SHARE) for d in lower)


def test_a_store_opened_again_is_not_built_again(
    documents: list[Document], neox_tokenizer: Any, tmp_path: Path
) -> None:
    def unread() -> Iterator[Document]:
        raise AssertionError("read again")
        yield

    built = build(tmp_path, documents, neox_tokenizer)
    opened = build(tmp_path, unread(), neox_tokenizer)
    assert opened.meta == built.meta
    assert (opened.split("train") == built.split("train")).all()


def test_tokens_are_memory_mapped_and_read_only(documents: list[Document], neox_tokenizer: Any, tmp_path: Path) -> None:
    tokens = build(tmp_path, documents, neox_tokenizer).split("train")
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


@pytest.mark.parametrize(("added", "dtype"), [(0, np.uint16), (2**16 - 257, np.uint16), (2**16 - 256, np.uint32)])
def test_tokens_take_two_bytes_where_the_vocabulary_allows(
    added: int, dtype: type, documents: list[Document], neox_folder: Path, tmp_path: Path
) -> None:
    from masked_sae.text.tokenizer import load_tokenizer

    tokenizer = copy.deepcopy(load_tokenizer(str(neox_folder)))  # the process shares the one that is read
    tokenizer.add_tokens([f"<extra{i}>" for i in range(added)])
    last = len(tokenizer) - 1
    tokens = build(tmp_path, documents, tokenizer, last).split("train")
    assert tokens.dtype == dtype
    assert tokens.tolist() == tokenized(documents, tokenizer, last, held_out=False)


def test_the_token_limit_ends_reading_at_the_document_that_reaches_it(
    documents: list[Document], neox_tokenizer: Any, tmp_path: Path
) -> None:
    whole = tokenized(documents, neox_tokenizer, SEPARATOR, held_out=False)
    limit = len(whole) // 2
    tokens = build(tmp_path, iter(documents), neox_tokenizer, token_limit=limit).split("train").tolist()
    assert limit <= len(tokens) < limit + 450
    assert tokens == whole[: len(tokens)]


def test_the_key_depends_on_text_tokenizer_separator_and_share(neox_tokenizer: Any, bert_tokenizer: Any) -> None:
    base = ("content", neox_tokenizer, 0, 0.1)
    others = [
        ("other", neox_tokenizer, 0, 0.1),
        ("content", bert_tokenizer, 0, 0.1),
        ("content", neox_tokenizer, None, 0.1),
        ("content", neox_tokenizer, 0, 0.2),
    ]
    assert store_key(*base) == store_key(*base)
    assert len({store_key(*arguments) for arguments in [base, *others]}) == 5


def test_the_key_is_the_same_after_the_tokenizer_was_used(neox_folder: Path) -> None:
    from masked_sae.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(neox_folder))
    before = store_key("content", tokenizer, 0, 0.1)
    tokenizer(["some", "text"], add_special_tokens=False)
    assert (
        store_key("content", tokenizer, 0, 0.1)
        == before
        == store_key("content", load_tokenizer(str(neox_folder)), 0, 0.1)
    )


def stores_in(folder: Path) -> list[str]:
    """What lies there beside locks."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") if folder.exists() else []


def test_a_build_that_fails_midway_leaves_no_store(
    documents: list[Document], neox_tokenizer: Any, tmp_path: Path
) -> None:
    def failing() -> Iterator[Document]:
        yield from documents[:100]
        raise InputError("data.path", "b.jsonl", "a readable file")

    with pytest.raises(InputError, match=r"b\.jsonl"):
        build(tmp_path, failing(), neox_tokenizer)
    assert stores_in(tmp_path) == []
    assert build(tmp_path, documents, neox_tokenizer).meta.train.documents > 100


def test_a_build_killed_midway_does_not_hinder_the_next(
    documents: list[Document], neox_tokenizer: Any, tmp_path: Path
) -> None:
    def killed() -> Iterator[Document]:
        yield from documents[:100]
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=lambda: build(tmp_path, killed(), neox_tokenizer))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert KEY not in stores_in(tmp_path)
    assert build(tmp_path, documents, neox_tokenizer).split("train").tolist() == tokenized(
        documents, neox_tokenizer, SEPARATOR, held_out=False
    )


def test_processes_that_build_at_once_make_one_store(
    documents: list[Document], neox_tokenizer: Any, tmp_path: Path
) -> None:
    barrier, read = FORK.Barrier(4), FORK.Value("i", 0)
    expected = tokenized(documents, neox_tokenizer, SEPARATOR, held_out=False)

    def slowly() -> Iterator[Document]:
        with read.get_lock():
            read.value += 1
        for document in documents:
            time.sleep(0.001)
            yield document

    def job() -> None:
        barrier.wait(30)
        if build(tmp_path, slowly(), neox_tokenizer).split("train").tolist() != expected:
            os._exit(3)

    processes = [FORK.Process(target=job) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert read.value == 1
    assert stores_in(tmp_path) == [KEY]
    assert sorted(p.name for p in (tmp_path / KEY).iterdir()) == ["meta.json", "train.bin", "validation.bin"]
    assert json.loads((tmp_path / KEY / "meta.json").read_text())["train"]["tokens"] == len(expected)


@pytest.mark.parametrize(
    ("take", "key"),
    [
        (lambda documents: [], "data"),
        (lambda documents: [d for d in documents if in_validation(d.key, SHARE)], "data.validation_share"),
        (lambda documents: [d for d in documents if not in_validation(d.key, SHARE)], "data.validation_share"),
    ],
    ids=["no document", "all held out", "none held out"],
)
def test_a_corpus_without_text_in_both_splits_is_refused(
    take: Callable[[list[Document]], list[Document]],
    key: str,
    documents: list[Document],
    neox_tokenizer: Any,
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError) as info:
        build(tmp_path, take(documents), neox_tokenizer)
    assert info.value.key.startswith(key)
    assert stores_in(tmp_path) == []


def test_sequences_are_stretches_of_the_flat_tokens() -> None:
    tokens = np.arange(100, dtype=np.uint16)
    x_NT = stretches(tokens, 7, np.array([3, 0, 13]))
    assert x_NT.dtype == np.int64
    assert x_NT.tolist() == [list(range(21, 28)), list(range(7)), list(range(91, 98))]


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 4 * 2])


def appended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(60_000))


def zeros_in_it(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes(1000) + content[1100:])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "meta.json"])
@pytest.mark.parametrize("damage", [flipped, cut, appended, zeros_in_it, emptied, removed])
def test_a_damaged_store_is_built_again_and_that_is_said(
    name: str,
    damage: Callable[[Path], None],
    documents: list[Document],
    neox_tokenizer: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    memory = tmp_path / "memory"
    built = build(tmp_path / "tokens", documents, neox_tokenizer, memory=memory)
    before = {path.name: path.read_bytes() for path in built.folder.iterdir()}
    damage(built.folder / name)
    capsys.readouterr()
    again = build(tmp_path / "tokens", documents, neox_tokenizer, memory=memory)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == before
    said = capsys.readouterr().err
    # A store without its description is none; where the description differs from a file, the file is blamed.
    assert (name, damage) == ("meta.json", removed) or "is damaged" in said
    assert stores_in(tmp_path / "tokens") == [KEY]


def test_what_no_sae_is_trained_on_is_counted_as_sequences_drop_it(bert_tokenizer: Any, tmp_path: Path) -> None:
    """The unknown word is a special token, and text has it."""
    texts = [Document(f"key {i}", text) for i, text in enumerate(["the of 7 the", "8 9 of", "of the"] * 20)]
    store = build(tmp_path, texts, bert_tokenizer, bert_tokenizer.sep_token_id)
    special = special_tokens(bert_tokenizer)
    sequences = Sequences(store.split("train"), 1, special)
    _, kept_NT = sequences.read(np.arange(len(sequences)))
    assert store.meta.train.special == store.meta.train.tokens - int(kept_NT.sum()) > store.meta.train.documents


def test_a_digest_is_computed_once_and_a_start_after_it_is_quick(
    documents: list[Document], neox_tokenizer: Any, tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    build(tmp_path / "tokens", documents, neox_tokenizer, memory=memory)
    written = {path: path.stat().st_mtime_ns for path in memory.iterdir()}
    assert len(written) == 2
    build(tmp_path / "tokens", documents, neox_tokenizer, memory=memory)
    assert {path: path.stat().st_mtime_ns for path in memory.iterdir()} == written
