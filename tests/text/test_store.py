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

from masked_sae.activations.sequences import stretches
from masked_sae.errors import InputError
from masked_sae.text.documents import Document, in_validation
from masked_sae.text.store import TokenStore, open_or_build, store_key
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

    tokenizer = load_tokenizer(str(neox_folder))
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
