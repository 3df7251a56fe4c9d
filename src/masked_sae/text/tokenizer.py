"""An LM's tokenizer, and the special tokens that it puts around a text."""

import hashlib
import json
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from masked_sae.errors import InputError
from masked_sae.lm_files import find_tokenizer_folder, read_lm_config, shortened


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
