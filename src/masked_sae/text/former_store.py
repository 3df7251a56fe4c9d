"""Token stores without digests, from before special tokens in text were text: taken over where that is the same."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from masked_sae.digests import sha256
from masked_sae.errors import DamagedFileError, notice
from masked_sae.files import look_again, read_object, write_json
from masked_sae.text.store import SPLITS

_TOKENS_AT_ONCE = 1 << 22


def former_key(content: str, tokenizer: Any, separator: int | None, validation_share: float) -> str:
    """What a store was called."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    of_tokenizer = hashlib.blake2b(rules.encode(), digest_size=12).hexdigest()
    parts = [1, content, of_tokenizer, separator, validation_share]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def take_over(store_dir: Path, former: str, key: str, tokenizer: Any, separator: int | None) -> None:
    """Has a former store be the store `key`, if there is none: where its form is right and no text in it spelled a
    special token. It is not otherwise known to be what was written, and from now on it is.
    """
    old, new = store_dir / former, store_dir / key
    if new.exists() or not (old / "meta.json").exists():
        return
    with FileLock(f"{new}.lock"):
        look_again(store_dir)
        if new.exists() or not is_plain(old, tokenizer, separator):
            return
        meta = read_object(old / "meta.json")
        splits = {name: {**meta[name], "sha256": sha256(old / f"{name}.bin")} for name in SPLITS}
        for split in splits.values():
            split["special"] = split.pop("separators")
        old.rename(new)
        write_json(new / "meta.json", {**meta, "format": 2, **splits})
    notice(f"{new}: taken over from {former}, which had no digests; its form is right, its content from now on known")


def is_plain(store: Path, tokenizer: Any, separator: int | None) -> bool:
    """Whether a former store is whole by its form, and has no special ids but the ends of its documents."""
    try:
        meta = read_object(store / "meta.json")
        return all(_is_plain(store / f"{name}.bin", meta["dtype"], meta[name], tokenizer, separator) for name in SPLITS)
    except (OSError, DamagedFileError, KeyError, TypeError):
        return False


def _is_plain(path: Path, dtype: str, split: dict[str, int], tokenizer: Any, separator: int | None) -> bool:
    width = np.dtype(dtype).itemsize
    if path.stat().st_size != split["tokens"] * width:
        return False
    special_ids = np.array(tokenizer.all_special_ids)
    separators = others = 0
    with path.open("rb") as file:
        while piece := file.read(_TOKENS_AT_ONCE * width):
            ids = np.frombuffer(piece, dtype)
            if ids.max() >= len(tokenizer):
                return False
            special = ids[np.isin(ids, special_ids)]
            separators += int((special == separator).sum())
            others += int((special != separator).sum())
    return others == 0 and separators == split["separators"]
