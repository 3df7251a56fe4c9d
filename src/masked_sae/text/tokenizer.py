"""An LM's tokenizer, and the special tokens that it puts around a text."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from masked_sae.errors import InputError
from masked_sae.lm_files import find_tokenizer_folder, read_lm_config, shortened

# How text becomes tokens that spells one of the tokenizer's special tokens; another rule would be another text.
SPELLED_SPECIAL_TOKENS = "as text"
MEAN_TOKEN = -1  # no tokenizer's: an LM reads it as the mean of its vocabulary's embeddings


@dataclass(frozen=True)
class SpecialTokens:
    """How the tokenizer frames a sequence: activations at these positions are never used."""

    prefix: tuple[int, ...]  # put before every sequence
    suffix: tuple[int, ...]  # put after every sequence
    separator: int | None  # ends a document inside the token store
    ids: tuple[int, ...]  # every special token


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a hub name or local folder, before any bridge has changed it.

    It is read once by a process, so all who ask share it: nobody may change it.

    Args:
        revision: of a hub name: a branch, tag or commit.

    Raises:
        InputError: there is no such checkpoint, or it has no tokenizer that works.
    """
    folder = find_tokenizer_folder(name, revision)
    read_lm_config(name, folder)
    try:
        tokenizer = _read_tokenizer(folder, _state(folder))
    except BaseException as error:  # what parses tokenizers raises anything, panics of Rust too
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        raise InputError(
            "lm.name", name, f"a checkpoint with a tokenizer that can be read ({shortened(error)})"
        ) from error
    if tokenizer is None:
        raise InputError("lm.name", name, "a checkpoint with a tokenizer: this folder holds none")
    return tokenizer


def _state(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Of the files that a tokenizer may be read from: another as soon as one of them is."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model", ".jinja"))
    stats = ((path.name, path.stat()) for path in files if path.exists())
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)


@lru_cache(maxsize=8)
def _read_tokenizer(folder: Path, state: object) -> Any:
    """None where there is no vocabulary, and the library makes a tokenizer up from the configuration.

    Args:
        state: see `_state`.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(folder, clean_up_tokenization_spaces=False, trust_remote_code=False)
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        return None
    special_tokens(tokenizer)
    return tokenizer


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """Reads from the tokenizer what it puts around a text; one that adds nothing gets its BOS, if it has one."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), None)
    if start is None:
        raise ValueError("it changes a text that it puts special tokens around")
    prefix, suffix = framed[:start], framed[start + len(bare) :]
    if not prefix and tokenizer.bos_token_id is not None:
        prefix = [tokenizer.bos_token_id]
    separators = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id)
    separator = next((token for token in separators if token is not None), None)
    return SpecialTokens(tuple(prefix), tuple(suffix), separator, tuple(sorted(set(tokenizer.all_special_ids))))


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts as ordinary text: one that spells `<|endoftext|>` has its characters, not the end of a text.

    No special id comes out, but the one of an unknown word; nothing is put around a text. The tokenizer stays as it is.
    """
    # A tokenizer written in Python would take apart added tokens that are not special, too.
    encoded = _ids(tokenizer, texts, apart=tokenizer.is_fast)
    others = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "sep", "pad", "cls", "mask")}
    unknown = None if tokenizer.unk_token_id in others else tokenizer.unk_token_id  # GPT-2's is its end of a text
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    refused = special - {unknown}
    spelled: dict[int, list[int]] = {}
    for row, ids in enumerate(encoded):
        if refused.isdisjoint(ids):
            continue
        for found in refused.intersection(ids) - spelled.keys():
            spelled[found] = _spelled(tokenizer, tokenizer.convert_ids_to_tokens(found), special, unknown)
        encoded[row] = [part for token in ids for part in spelled.get(token, (token,))]
    return encoded


def _ids(tokenizer: Any, texts: Sequence[str], *, apart: bool) -> list[list[int]]:
    """Ids of texts, special tokens taken apart or not."""
    return _tokenized(tokenizer, texts, apart)["input_ids"] if texts else []


def encode_with_places(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of one text as ordinary text, and which of its characters each stands for, from where up to where.

    Raises:
        NotImplementedError: the tokenizer is written in Python (not `is_fast`), and does not tell.
    """
    found = _tokenized(tokenizer, [text], apart=True, return_offsets_mapping=True)
    return found["input_ids"][0], found["offset_mapping"][0]


def _tokenized(tokenizer: Any, texts: Sequence[str], apart: bool, **more: Any) -> Any:
    """The tokenizer would otherwise remember whether special tokens are to be taken apart."""
    settings = {"add_special_tokens": False, "split_special_tokens": apart, "verbose": False, **more}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    before = None if backend is None else backend.encode_special_tokens
    try:
        return tokenizer(list(texts), **settings)
    finally:
        if backend is not None:
            backend.encode_special_tokens = before


def _spelled(tokenizer: Any, spelling: str, special: set[int], unknown: int | None) -> list[int]:
    """A special token that came of a text all the same, by what it is written with."""
    (whole,) = _ids(tokenizer, [spelling], apart=True)
    if (special - {unknown}).isdisjoint(whole):
        return whole
    # The vocabulary has it as a word like any other.
    parts = [token for ids in _ids(tokenizer, [spelling[:1], spelling[1:]], apart=True) for token in ids]
    if special.isdisjoint(parts):
        return parts
    return [token for token in parts if token not in special] if unknown is None else [unknown]


@lru_cache(maxsize=8)  # a sweep asks for each member, and a large vocabulary takes half a second
def tokenizer_digest(tokenizer: Any) -> str:
    """Of its vocabulary and rules, and of the special tokens that it puts around a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        for of_the_last_call in ("truncation", "padding"):
            rules.pop(of_the_last_call, None)
    else:
        rules = sorted(tokenizer.get_vocab().items())
    special = [*astuple(special_tokens(tokenizer)), tokenizer.special_tokens_map]
    text = json.dumps([rules, special], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
