"""What a run is called: the same name for the same experiment, on any machine."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from masked_sae.config import RunConfig, TrainerSettings
from masked_sae.masks.run_masks import paper_rate
from masked_sae.settings import without_neutral
from masked_sae.text.tokenizer import SPELLED_SPECIAL_TOKENS

# Settings that say where or how a run is done, not what comes out of it.
HOW = (
    "output_dir",
    "force",
    "detach",
    "pack",
    "code",
    "prune",
    "plan",
    "plan_measure",
    "plan_tflops",
    "plan_utilization",
    "plan_json",
    *(f"trainer.{one.name}" for one in fields(TrainerSettings) if one.name != "matmul_precision"),
    "lm.micro_batch_size",
    "logger",
    "eval.cache_dir",
    "lm.device",
    "lm.device_map",
    *(f"data.{key}" for key in ("store_dir", "ahead", "cache", "cache_dir", "cache_gib")),
)
# An id leaves out besides: the experiment, what digests of contents stand for, and what is done after training.
BY_CONTENT = ("data.path", "lm.name", "lm.revision", "init_from")
NOT_HASHED = (*HOW, *BY_CONTENT, "name", "eval", "objective")


def is_part_of(key: str, settings: Iterable[str]) -> bool:
    """Whether a dotted key is one of these settings, or belongs to one."""
    return any(key == setting or key.startswith(f"{setting}.") for setting in settings)


@dataclass(frozen=True)
class Digests:
    """Of what a run reads, by content.

    Attributes:
        text: of the corpus, which stands for its paths.
        tokenizer: its vocabulary and rules.
        weights: of the LM, which stand for its name.
        modules: of the user's own, by the key that names each.
        initial: of the run that it begins with, where it begins with one.
    """

    text: str
    tokenizer: str
    weights: str
    modules: Mapping[str, str]
    initial: str | None = None


def run_id(config: RunConfig, swept: Mapping[str, str], read: Digests) -> str:
    """`<swept values>-<hash>`: readable, and different whenever a setting that changes the result is.

    Args:
        swept: the keys that the sweep varies, with this run's values; without any, architecture and mask rate stand.
        read: what the run reads.
    """
    return f"{label_of(config, swept)}-{result_digest(config, read)[:8]}"


def label_of(config: RunConfig, swept: Mapping[str, str]) -> str:
    """The readable part of a run's id."""
    values = swept or {"sae": config.sae.architecture, "rate": f"{paper_rate(config.mask):g}"}
    last = {key: key.split(".")[-1].split("/")[-1] for key in values}
    shared = {name for name, times in Counter(last.values()).items() if times > 1}  # as those of seed and data.seed
    parts = [f"{key if last[key] in shared else last[key]}{value}" for key, value in values.items()]
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", "-".join(parts)).strip("_.")[:80]


def result_digest(config: RunConfig, read: Digests) -> str:
    """A digest of every setting that changes the result; of a setting at its neutral value, and of a mask that is off,
    there is nothing in it.
    """
    settings = without(NOT_HASHED, without_neutral(config))
    settings["mask"] = {name: settings["mask"][name] for name, mask in config.mask.items() if not mask.is_off}
    settings["text"] = {"content": read.text, "tokenizer": read.tokenizer, "special tokens": SPELLED_SPECIAL_TOKENS}
    settings["lm"]["weights"] = read.weights
    if read.initial is not None:
        settings["init_from"] = read.initial
    return digest_of(settings)


def without(keys: Iterable[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Takes these dotted keys out of the settings, and groups of which nothing is left."""
    for key in keys:
        holder = settings
        *parents, last = key.split(".")
        for parent in parents:
            holder = holder.get(parent, {})
        holder.pop(last, None)
        if parents and not holder:
            settings.pop(parents[0], None)
    return settings


def digest_of(settings: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()
