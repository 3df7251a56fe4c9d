"""Token stores from before they had digests: taken over where they are what would be built today."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masked_sae.config import RunConfig
from masked_sae.text.corpus import Corpus, find_corpus, spells_special_tokens, token_store
from masked_sae.text.documents import Document
from masked_sae.text.former_store import former_key
from masked_sae.text.store import TokenStore
from support.making import compose

SEPARATOR = 0


@pytest.fixture
def config(tmp_path: Path, corpus_folder: Path) -> RunConfig:
    return compose(
        ["data=text", f"data.path={corpus_folder}", f"data.store_dir={tmp_path}", "data.validation_share=0.2"]
    )


@pytest.fixture
def corpus(config: RunConfig) -> Corpus:
    return find_corpus(config.data, 10)


def opened(corpus: Corpus, config: RunConfig, tokenizer: Any) -> TokenStore:
    return token_store(corpus, config.data, tokenizer, SEPARATOR, progress=False)


def former(store: TokenStore, corpus: Corpus, config: RunConfig, tokenizer: Any) -> Path:
    """The store as it was written then."""
    meta: dict[str, Any] = json.loads((store.folder / "meta.json").read_text())
    for name in ("train", "validation"):
        del meta[name]["sha256"]
        meta[name]["separators"] = meta[name].pop("special")
    (store.folder / "meta.json").write_text(json.dumps(meta | {"format": 1}))
    folder = store.folder.parent / former_key(corpus.content, tokenizer, SEPARATOR, config.data.validation_share)
    return store.folder.rename(folder)


def unreadable(corpus: Corpus) -> Corpus:
    def documents() -> Iterator[Document]:
        raise AssertionError("read again")
        yield

    return Corpus(corpus.content, documents, corpus.origin)


def test_one_whose_form_is_right_is_taken_over_and_gets_digests(
    corpus: Corpus, config: RunConfig, neox_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    built = opened(corpus, config, neox_tokenizer)
    meta, tokens = built.meta, np.array(built.split("train"))
    old = former(built, corpus, config, neox_tokenizer)
    assert spells_special_tokens(unreadable(corpus), config.data, neox_tokenizer) is False
    store = opened(unreadable(corpus), config, neox_tokenizer)
    assert store.folder == built.folder and not old.exists()
    assert store.meta == meta and (store.split("train") == tokens).all()
    assert "taken over from" in capsys.readouterr().err
    opened(unreadable(corpus), config, neox_tokenizer)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["cut", "a special token inside", "an id beyond the vocabulary", "no meta"])
def test_any_other_is_built_anew(damage: str, corpus: Corpus, config: RunConfig, neox_tokenizer: Any) -> None:
    built = opened(corpus, config, neox_tokenizer)
    expected = np.array(built.split("train"))
    old = former(built, corpus, config, neox_tokenizer)
    tokens = expected.copy()
    if damage == "no meta":
        (old / "meta.json").write_text("{}")
    else:
        tokens[5] = {"cut": 7, "a special token inside": SEPARATOR, "an id beyond the vocabulary": 60_000}[damage]
        (old / "train.bin").write_bytes(tokens[: 500 if damage == "cut" else None].tobytes())
    assert (opened(corpus, config, neox_tokenizer).split("train") == expected).all()
    assert old.exists()


def test_text_that_spells_a_special_token_is_known_by_reading_it(
    config: RunConfig, neox_tokenizer: Any, tmp_path: Path
) -> None:
    assert spells_special_tokens(find_corpus(config.data, 10), config.data, neox_tokenizer) is False
    (tmp_path / "more.txt").write_text("a<|endoftext|>b")
    config.data.path = [*config.data.path, str(tmp_path / "more.txt")]
    assert spells_special_tokens(find_corpus(config.data, 10), config.data, neox_tokenizer) is True
