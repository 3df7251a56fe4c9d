"""What a run is called: the same name for the same experiment, on any machine."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from masked_sae.config import RunConfig
from masked_sae.masks.run_masks import find_mask, paper_rate
from masked_sae.settings import without_neutral

# Settings that say where or how a run is done, not what comes out of it.
HOW = ("output_dir", "force", "detach", "trainer", "logger", "data.store_dir", "eval.cache_dir")
# An id leaves out besides: the experiment, what digests of contents stand for, and what is done after training.
BY_CONTENT = ("data.path", "lm.name", "lm.revision")
NOT_HASHED = (*HOW, *BY_CONTENT, "name", "eval")


def is_part_of(key: str, settings: Iterable[str]) -> bool:
    """Whether a dotted key is one of these settings, or belongs to one."""
    return any(key == setting or key.startswith(f"{setting}.") for setting in settings)


def run_id(config: RunConfig, swept: Mapping[str, str], content: str, weights: str) -> str:
    """`<swept values>-<hash>`: readable, and different whenever a setting that changes the result is.

    Args:
        swept: the keys that the sweep varies, with this run's values; without any, architecture and mask rate stand.
        content: the digest of the corpus, which stands for its paths.
        weights: the digest of the LM, which stands for its name.
    """
    values = swept or {"sae": config.sae.architecture, "rate": f"{paper_rate(config.mask):g}"}
    parts = [f"{key.split('.')[-1].split('/')[-1]}{value}" for key, value in values.items()]
    label = re.sub(r"[^A-Za-z0-9._=+-]+", "_", "-".join(parts)).strip("_.")[:80]
    return f"{label}-{result_digest(config, content, weights)[:8]}"


def result_digest(config: RunConfig, content: str, weights: str) -> str:
    """A digest of every setting that changes the result."""
    settings = _frozen_form(config)
    for key in NOT_HASHED:
        holder = settings
        *parents, last = key.split(".")
        for parent in parents:
            holder = holder[parent]
        holder.pop(last, None)
    settings["corpus"] = content
    settings["lm"]["weights"] = weights
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()


def _frozen_form(config: RunConfig) -> dict[str, Any]:
    """The settings as they were hashed when the first runs were named. What was added later is left out while it is
    neutral; what was there then is hashed as it was then, masks that are off and settings that some SAEs lack included.
    """
    settings: dict[str, Any] = without_neutral(config)
    settings["sae"].setdefault("group_fractions", [])
    if config.sae.architecture == "topk":
        settings["sae"].setdefault("threshold_decay", 0.99)
    for name, mask in config.mask.items():
        if mask.is_off and name not in _FIRST_MASKS:
            del settings["mask"][name]
    for name in _FIRST_MASKS:
        settings["mask"].setdefault(name, without_neutral(find_mask(name, None)()))
    return settings


_FIRST_MASKS = ("token", "latent", "input")
