"""What a run is called: the same name for the same experiment, on any machine."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from masked_sae.config import RunConfig

# Settings that say where or how a run is done, not what comes out of it.
HOW = ("output_dir", "force", "detach", "trainer", "logger", "data.store_dir", "eval.cache_dir")
# An id leaves out besides: the experiment, what digests of contents stand for, and what is done after training.
_NOT_HASHED = (*HOW, "name", "data.path", "lm.name", "eval")


def is_part_of(key: str, settings: Iterable[str]) -> bool:
    """Whether a dotted key is one of these settings, or belongs to one."""
    return any(key == setting or key.startswith(f"{setting}.") for setting in settings)


def run_id(config: RunConfig, swept: Mapping[str, str], content: str) -> str:
    """`<swept values>-<hash>`: readable, and different whenever a setting that changes the result is.

    Args:
        swept: the keys that the sweep varies, with this run's values; without any, architecture and mask rate stand.
        content: the digest of the corpus, which stands for its paths.
    """
    values = swept or {"sae": config.sae.architecture, "rate": f"{config.mask.token.rate:g}"}
    parts = [f"{key.split('.')[-1].split('/')[-1]}{value}" for key, value in values.items()]
    label = re.sub(r"[^A-Za-z0-9._=+-]+", "_", "-".join(parts)).strip("_.")[:80]
    return f"{label}-{result_digest(config, content)[:8]}"


def result_digest(config: RunConfig, content: str) -> str:
    """A digest of every setting that changes the result."""
    settings: dict[str, Any] = asdict(config)
    for key in _NOT_HASHED:
        holder = settings
        *parents, last = key.split(".")
        for parent in parents:
            holder = holder[parent]
        del holder[last]
    settings["sae"] = {name: value for name, value in settings["sae"].items() if value is not None}
    settings["corpus"] = content
    settings["lm"]["weights"] = lm_fingerprint(config.lm.name)
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()


def lm_fingerprint(name: str) -> str:
    """A hub name stands for itself; a local folder for its configuration, tokenizer and samples of its weights."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    for path in sorted(folder.glob("*.json")):
        if path.name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


_SAMPLE_BYTES = 1 << 16
