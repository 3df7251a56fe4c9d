"""What a sweep fetches, and what it leaves on disk."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from masked_sae.config import RunConfig
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.files import read_object
from masked_sae.lm_files import find_tokenizer_folder, weight_files
from masked_sae.masks.run_masks import kept_share
from masked_sae.planning.memory import sae_bytes
from masked_sae.planning.reading import Reading
from masked_sae.planning.step import steps_of
from masked_sae.runs.run import Run
from masked_sae.text.corpus import find_corpus, tokens_needed
from masked_sae.text.store import store_key
from masked_sae.text.tokenizer import load_tokenizer, special_tokens

_KEPT_CHECKPOINTS = 2
_WRITTEN_ASIDE = 1  # at any time, the next one of a member
_IN_CHECKPOINT = 3  # of an SAE's size: its weights and Adam's moments


@dataclass(frozen=True)
class Text:
    """Attributes:
    tokens: in the store, held-out ones included; None where only tokenizing tells.
    store: bytes that are still to be written; None likewise.
    to_fetch: tokens of text that come over the network.
    """

    tokens: int | None
    store: int | None
    to_fetch: int


@dataclass(frozen=True)
class RunFiles:
    """Bytes. `checkpoints` has the one that is written aside, `windows` is bounded by `data.cache_gib`."""

    checkpoints: int
    export: int
    windows: int

    @property
    def total(self) -> int:
        return self.checkpoints + self.export + self.windows


def text_of(config: RunConfig) -> tuple[str, Text]:
    """A digest of what the store would be made of, and what it takes."""
    data = config.data
    tokenizer = load_tokenizer(config.lm.name, config.lm.revision)
    corpus = find_corpus(data, tokens_needed(data, kept_share(config.mask)), config.digest_memory)
    key = store_key(corpus.content, tokenizer, special_tokens(tokenizer).separator, data.validation_share)
    there = _tokens_in(Path(data.store_dir).expanduser() / key)
    if there is not None:
        return key, Text(there, 0, 0)
    if corpus.token_limit is None:
        return key, Text(None, None, 0)
    tokens = math.ceil(corpus.token_limit / (1 - data.validation_share))
    width = 2 if len(tokenizer) <= 2**16 else 4
    return key, Text(tokens, width * tokens, tokens if data.source == "hub" else 0)


def _tokens_in(store: Path) -> int | None:
    """None where there is none that is whole."""
    try:
        found = read_object(store / "meta.json")
        return sum(int(found[split]["tokens"]) for split in ("train", "validation"))
    except (OSError, DamagedFileError, KeyError, TypeError, ValueError):
        return None


def lm_to_fetch(config: RunConfig, reading: Reading) -> int | None:
    """Bytes of weights that are not here yet; None where nothing tells."""
    name, folder = config.lm.name, find_tokenizer_folder(config.lm.name, config.lm.revision)
    try:
        if all((folder / file).is_file() for file in weight_files(name, folder)):
            return 0
    except (InputError, DamagedFileError):
        pass
    if reading.forward is None:
        return None
    stored = read_object(folder / "config.json")
    dtype = getattr(torch, str(stored.get("dtype") or stored.get("torch_dtype")), None)
    if not isinstance(dtype, torch.dtype):
        return None
    return reading.forward.weights * dtype.itemsize // getattr(torch, config.lm.dtype).itemsize


def files_of(pack: Sequence[Run], reading: Reading) -> RunFiles | None:
    """What the members' folders and the cache of windows come to; None where the LM could not be laid out."""
    if reading.forward is None:
        return None
    checkpoints = export = 0
    for config in (run.config for run in pack):
        size = sae_bytes(config, reading.forward.d_in[config.lm.hook_name])
        saved = math.ceil(steps_of(config) / config.trainer.checkpoint_every_steps)
        checkpoints += _IN_CHECKPOINT * size * min(saved, _KEPT_CHECKPOINTS)
        export += size
    largest = max(sae_bytes(run.config, reading.forward.d_in[run.config.lm.hook_name]) for run in pack)
    checkpoints += _WRITTEN_ASIDE * _IN_CHECKPOINT * largest
    data, lm = pack[0].config.data, pack[0].config.lm
    windows = 0
    if data.cache == "true":
        width: int = getattr(torch, data.cache_dtype or lm.dtype).itemsize
        windows = min(reading.plan.windows * reading.window_bytes(width), int(data.cache_gib * 2**30))
    return RunFiles(checkpoints, export, windows)
