"""The text that a configuration names, and the token store made of it."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from masked_sae.text.documents import (
    Document,
    content_digest,
    find_text_files,
    hub_documents,
    stdlib_documents,
    text_documents,
)
from masked_sae.text.former_store import former_key, is_plain, take_over
from masked_sae.text.settings import DataSettings
from masked_sae.text.store import TokenStore, open_or_build, store_key
from masked_sae.text.synthetic import read_recipe, synthetic_documents
from masked_sae.text.tokenizer import special_tokens


@dataclass(frozen=True)
class Corpus:
    """Text by what it says, not by where it lies.

    Attributes:
        content: a digest of the text, or for a hub's dataset its name and version.
        documents: reads it.
        origin: the configuration key and value that name it.
        token_limit: training tokens after which reading stops; None reads all.
    """

    content: str
    documents: Callable[[], Iterator[Document]]
    origin: tuple[str, str]
    token_limit: int | None = None


def find_corpus(
    data: DataSettings, tokens_needed: int, memory: Path | None = None, *, progress: bool = False
) -> Corpus:
    """The corpus of `data`; of a hub's dataset and of synthetic text no more than `tokens_needed` training
    tokens are read.

    Args:
        memory, progress: see `digests.sha256`.

    Raises:
        InputError: `data.path` names nothing that can be read.
    """
    if data.source == "text":
        files = find_text_files(data.path)
        content = f"text/{content_digest(files, memory, progress=progress)}/{data.column}"
        return Corpus(content, lambda: text_documents(files, data.column), ("data.path", ", ".join(data.path)))
    if data.source == "hub":
        name = data.name or ""
        content = f"hub/{name}/{data.revision}/{data.split}/{data.column}/{tokens_needed}"
        documents = lambda: hub_documents(name, data.split, data.column, data.revision)  # noqa: E731
        return Corpus(content, documents, ("data.name", name), tokens_needed)
    if data.source == "synthetic":
        recipe = read_recipe(Path(data.path[0]))
        content = f"synthetic/{recipe}/{tokens_needed}"
        return Corpus(content, lambda: synthetic_documents(recipe), ("data.path", data.path[0]), tokens_needed)
    return Corpus(f"stdlib/{_stdlib_digest()}", stdlib_documents, ("data", "stdlib"))


@cache
def _stdlib_digest() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for document in stdlib_documents():
        digest.update(document.key.encode() + b"\0" + document.text.encode() + b"\0")
    return digest.hexdigest()


def tokens_needed(data: DataSettings, kept_share: float) -> int:
    """Tokens to read of an endless source, with a tenth to spare for separators and for whole windows."""
    window = min(data.window_tokens, data.train_tokens)
    return math.ceil(1.1 * (data.train_tokens / data.max_epochs + window) / kept_share)


def token_store(
    corpus: Corpus,
    data: DataSettings,
    tokenizer: Any,
    separator: int | None,
    *,
    progress: bool,
    memory: Path | None = None,
) -> TokenStore:
    """The corpus as tokens, built now if it never was.

    Args:
        memory: see `digests.sha256`.
    """
    folder, named = Path(data.store_dir).expanduser(), (corpus.content, tokenizer, separator, data.validation_share)
    key = store_key(*named)
    take_over(folder, former_key(*named), key, tokenizer, separator)
    return open_or_build(
        folder,
        key,
        corpus.documents(),
        tokenizer,
        separator,
        data.validation_share,
        token_limit=corpus.token_limit,
        origin=corpus.origin,
        progress=progress,
        memory=memory,
    )


def spells_special_tokens(corpus: Corpus, data: DataSettings, tokenizer: Any) -> bool | None:
    """Whether a document does; None where nobody knows without reading an endless source once more."""
    separator = special_tokens(tokenizer).separator
    former = former_key(corpus.content, tokenizer, separator, data.validation_share)
    if is_plain(Path(data.store_dir).expanduser() / former, tokenizer, separator):
        return False
    if corpus.token_limit is not None:
        return None
    spellings = tokenizer.all_special_tokens
    return any(spelling in document.text for document in corpus.documents() for spelling in spellings)
