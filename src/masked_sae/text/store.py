"""Text in, a token store on disk out: built once, memory-mapped ever after.

A store is a folder with one flat file of token ids for each split, documents ended by the separator:
`train.bin`, `validation.bin` and `meta.json`. Its name is a digest of the text and of the tokenizer. It is read after a
look at the files' lengths and digests only; one that is damaged is built again.
"""

import errno
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from masked_sae.digests import sha256
from masked_sae.errors import DamagedFileError, InputError, notice
from masked_sae.files import folder_aside, look_again, read_object, remove_leftovers, write_json
from masked_sae.text.documents import Document, in_validation
from masked_sae.text.tokenizer import SPELLED_SPECIAL_TOKENS, encode, tokenizer_digest

_FORMAT = 2
_DOCUMENTS_AT_ONCE = 64
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class SplitMeta:
    """Attributes:
    special: of the tokens, those that no SAE is trained on: separators, and words that the tokenizer does not know.
    sha256: of the file.
    """

    tokens: int
    special: int
    documents: int
    sha256: str


@dataclass(frozen=True)
class StoreMeta:
    format: int
    dtype: str
    train: SplitMeta
    validation: SplitMeta

    def split(self, name: str) -> SplitMeta:
        return self.train if name == "train" else self.validation


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
    parts = [_FORMAT, content, tokenizer_digest(tokenizer), SPELLED_SPECIAL_TOKENS, separator, validation_share]
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
    memory: Path | None = None,
) -> TokenStore:
    """The store named `key`; built from the documents where there is none, or a damaged one, up to a number of training
    tokens.

    Of several jobs that want the same store one builds it and the others wait; a job that dies leaves nothing that
    counts as a store.

    Args:
        origin: the configuration key and value that the documents come from, for what is said of them.
        memory: where digests are remembered, see `digests.sha256`.

    Raises:
        InputError: the documents hold no text, or all of them fell into one split.
    """
    folder = store_dir.expanduser().resolve() / key
    try:
        return _open(folder, memory, progress)
    except FileNotFoundError:
        pass
    except DamagedFileError as damage:
        notice(f"{damage}: its tokens are made again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        look_again(folder.parent)
        try:
            return _open(folder, memory, progress)  # another job's
        except (FileNotFoundError, DamagedFileError):
            pass
        remove_leftovers(folder)
        shutil.rmtree(folder, ignore_errors=True)  # a job that reads it goes on: its map holds the file
        try:
            _build(folder, documents, tokenizer, separator, validation_share, token_limit, origin, progress)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another machine's, which does not see our locks
                raise
    return _open(folder, memory, progress)


def _open(folder: Path, memory: Path | None, progress: bool) -> TokenStore:
    """Raises:
    FileNotFoundError: there is no store.
    DamagedFileError: a file is not what was written.
    """
    path = folder / "meta.json"
    found = read_object(path)
    try:
        splits = [SplitMeta(**found[name]) for name in SPLITS]
        meta = StoreMeta(found["format"], found["dtype"], *splits)
        width = np.dtype(meta.dtype).itemsize
        lengths = {name: meta.split(name).tokens * width for name in SPLITS}
    except (KeyError, TypeError) as error:
        raise DamagedFileError(path, f"not what a store says of itself ({error})") from error
    for name in SPLITS:
        file, expected = folder / f"{name}.bin", lengths[name]
        if not file.exists() or file.stat().st_size != expected:
            has = f"{file.stat().st_size} bytes" if file.exists() else "gone"
            raise DamagedFileError(file, f"{has}, where {expected} bytes were written")
        if sha256(file, memory, progress=progress) != meta.split(name).sha256:
            raise DamagedFileError(file, "its content does not match its digest")
    return TokenStore(folder, meta)


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
    special_ids = np.array(tokenizer.all_special_ids)
    counts = {name: {"tokens": 0, "special": 0, "documents": 0} for name in SPLITS}
    with folder_aside(folder) as aside:
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {n: stack.enter_context((aside / f"{n}.bin").open("wb")) for n in SPLITS}
            bar = stack.enter_context(
                tqdm(desc="tokenizing", unit="tok", unit_scale=True, disable=not progress, mininterval=0.5)
            )
            for document, ids in _tokenized(documents, tokenizer):
                split = "validation" if in_validation(document.key, validation_share) else "train"
                ended = np.asarray(ids if separator is None else [*ids, separator], dtype=dtype)
                files[split].write(ended.tobytes())
                counts[split]["tokens"] += len(ended)
                counts[split]["special"] += int(np.isin(ended, special_ids).sum())
                counts[split]["documents"] += 1
                bar.update(len(ended))
                if token_limit is not None and counts["train"]["tokens"] >= token_limit:
                    break
        _refuse_empty(counts, validation_share, origin)
        splits = [SplitMeta(**counts[name], sha256=sha256(aside / f"{name}.bin")) for name in SPLITS]
        write_json(aside / "meta.json", asdict(StoreMeta(_FORMAT, np.dtype(dtype).name, *splits)))


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
        yield from zip(batch, encode(tokenizer, [document.text for document in batch]), strict=True)
