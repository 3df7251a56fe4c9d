"""Text in, a token store on disk out: built once, memory-mapped ever after.

A store is a folder with one flat file of token ids for each split, documents ended by the separator:
`train.bin`, `validation.bin` and `meta.json`. Its name is a digest of the text and of the tokenizer.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from masked_sae.errors import InputError
from masked_sae.files import folder_aside, remove_leftovers, write_json
from masked_sae.text.documents import Document, in_validation
from masked_sae.text.tokenizer import encode, tokenizer_digest

_FORMAT = 1
_DOCUMENTS_AT_ONCE = 64
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class SplitMeta:
    tokens: int
    separators: int
    documents: int


@dataclass(frozen=True)
class StoreMeta:
    format: int
    dtype: str
    train: SplitMeta
    validation: SplitMeta


@dataclass(frozen=True)
class TokenStore:
    """The tokens of a corpus, in one split or the other; reading copies only what is asked for."""

    folder: Path
    meta: StoreMeta

    def split(self, name: str) -> NDArray[np.uint16] | NDArray[np.uint32]:
        """(tokens,) token ids, memory-mapped, read-only."""
        return np.memmap(self.folder / f"{name}.bin", dtype=self.meta.dtype, mode="r")


def store_key(content: str, tokenizer: Any, separator: int | None, validation_share: float) -> str:
    """A digest of everything that decides what a store holds."""
    parts = [_FORMAT, content, tokenizer_digest(tokenizer), separator, validation_share]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def open_or_build(
    store_dir: Path,
    key: str,
    documents: Iterable[Document],
    tokenizer: Any,
    separator: int | None,
    validation_share: float,
    token_limit: int | None = None,
    origin: tuple[str, str] = ("data", "documents"),
    progress: bool = True,
) -> TokenStore:
    """The store named `key`; built from the documents where it does not exist yet, up to a number of training tokens.

    Of several jobs that want the same store one builds it and the others wait; a job that dies leaves nothing that
    counts as a store.

    Args:
        origin: the configuration key and value that the documents come from, for what is said of them.

    Raises:
        InputError: the documents hold no text, or all of them fell into one split.
    """
    folder = store_dir.expanduser().resolve() / key
    if not (folder / "meta.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "meta.json").exists():
                remove_leftovers(folder)
                _build(folder, documents, tokenizer, separator, validation_share, token_limit, origin, progress)
    meta = json.loads((folder / "meta.json").read_text())
    splits = [SplitMeta(**meta[name]) for name in SPLITS]
    return TokenStore(folder, StoreMeta(meta["format"], meta["dtype"], *splits))


def _build(
    folder: Path,
    documents: Iterable[Document],
    tokenizer: Any,
    separator: int | None,
    validation_share: float,
    token_limit: int | None,
    origin: tuple[str, str],
    progress: bool,
) -> None:
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    counts = {name: {"tokens": 0, "separators": 0, "documents": 0} for name in SPLITS}
    with folder_aside(folder) as aside:
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {n: stack.enter_context((aside / f"{n}.bin").open("wb")) for n in SPLITS}
            bar = stack.enter_context(
                tqdm(desc="tokenizing", unit="tok", unit_scale=True, disable=not progress, mininterval=0.5)
            )
            for document, ids in _tokenized(documents, tokenizer):
                split = "validation" if in_validation(document.key, validation_share) else "train"
                ended = ids if separator is None else [*ids, separator]
                files[split].write(np.asarray(ended, dtype=dtype).tobytes())
                counts[split]["tokens"] += len(ended)
                counts[split]["separators"] += separator is not None
                counts[split]["documents"] += 1
                bar.update(len(ended))
                if token_limit is not None and counts["train"]["tokens"] >= token_limit:
                    break
        _refuse_empty(counts, validation_share, origin)
        meta = StoreMeta(_FORMAT, np.dtype(dtype).name, SplitMeta(**counts["train"]), SplitMeta(**counts["validation"]))
        write_json(aside / "meta.json", asdict(meta))


def _refuse_empty(counts: dict[str, dict[str, int]], validation_share: float, origin: tuple[str, str]) -> None:
    total = sum(split["documents"] for split in counts.values())
    if total == 0:
        raise InputError(*origin, "documents that are not empty")
    for name in SPLITS:
        if counts[name]["documents"] == 0:
            valid = f"a share that leaves documents on both sides; of {total} none fell into the {name} split"
            raise InputError("data.validation_share", validation_share, valid)


def _tokenized(documents: Iterable[Document], tokenizer: Any) -> Iterator[tuple[Document, list[int]]]:
    pending = iter(documents)
    while batch := list(itertools.islice(pending, _DOCUMENTS_AT_ONCE)):
        encoded = encode(tokenizer, [document.text for document in batch])
        yield from zip(batch, encoded, strict=True)
