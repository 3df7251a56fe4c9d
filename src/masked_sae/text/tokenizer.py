"""An LM's tokenizer, and the special tokens that it puts around a text."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from masked_sae.errors import InputError, first_line
from masked_sae.lm_files import find_lm_folder

# How text becomes tokens that spells one of the tokenizer's special tokens; another rule would be another text.
SPELLED_SPECIAL_TOKENS = "as text"


@dataclass(frozen=True)
class SpecialTokens:
    """How the tokenizer frames a sequence: activations at these positions are never used."""

    prefix: tuple[int, ...]  # put before every sequence
    suffix: tuple[int, ...]  # put after every sequence
    separator: int | None  # ends a document inside the token store
    ids: tuple[int, ...]  # every special token


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a hub name or local folder, before any bridge has changed it.

    Raises:
        InputError: there is no such checkpoint, or it has no tokenizer.
    """
    from transformers import AutoTokenizer

    folder = find_lm_folder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, clean_up_tokenization_spaces=False)
    except (OSError, ValueError) as error:
        raise InputError("lm.name", name, f"a checkpoint with a tokenizer ({first_line(error)})") from error
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # made up from the configuration, without vocabulary
        raise InputError("lm.name", name, "a checkpoint with a tokenizer: this folder holds none")
    return tokenizer


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """Reads from the tokenizer what it puts around a text; one that adds nothing gets its BOS, if it has one."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    prefix, suffix = framed[:start], framed[start + len(bare) :]
    if not prefix and tokenizer.bos_token_id is not None:
        prefix = [tokenizer.bos_token_id]
    separators = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id)
    separator = next((token for token in separators if token is not None), None)
    return SpecialTokens(tuple(prefix), tuple(suffix), separator, tuple(sorted(set(tokenizer.all_special_ids))))


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Stub until merged."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False, split_special_tokens=True)["input_ids"]


def tokenizer_digest(tokenizer: Any) -> str:
    """Of its vocabulary and rules."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
