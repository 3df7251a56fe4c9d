"""Runs made before a run's id had whole files in it: found under the id that they had, and taken over under today's.

Until then an id had samples of the LM's weights in it, all settings of the masks that are off, and nothing of the rule
by which text becomes tokens. A run is taken over if today's configuration gives the id that it had, and its own
configuration the id of today; and only if no document spells a special token, which was read as one then.
"""

import glob
import hashlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from masked_sae.bundled import find_folder
from masked_sae.config import RunConfig, typed_config
from masked_sae.errors import DamagedFileError, InputError, first_line, notice
from masked_sae.files import read_object, write_json
from masked_sae.masks.run_masks import find_mask
from masked_sae.runs.config_file import is_signed, read_config, write_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.identity import NOT_HASHED, digest_of, label_of, run_id, without
from masked_sae.runs.lock import HeldError, hold, owner_file_of
from masked_sae.runs.run import Inputs, Run, find_inputs
from masked_sae.runs.state import read_state, write_state
from masked_sae.runs.sweep_record import rename_member
from masked_sae.settings import without_neutral
from masked_sae.text.corpus import spells_special_tokens
from masked_sae.text.documents import find_text_files

_SAMPLE_BYTES = 1 << 16
_FIRST_MASKS = ("token", "latent", "input")


def take_over_former(runs: Sequence[Run]) -> None:
    """Renames folders that hold these runs under the id that they had; says which.

    Raises:
        InputError: another process works in such a folder.
    """
    plain: dict[str, bool | None] = {}  # corpora that were looked through
    for run in runs:
        if run.folder.path.exists() or not (found := _candidates(run)):
            continue
        inputs = find_inputs(run.config)
        former = RunFolder(run.folder.path.parent / former_id(run.config, run.swept, text_digest(run.config, inputs)))
        recorded = _recorded(former, run) if former in found else None
        if recorded is None:
            continue
        content = inputs.corpus.content
        if content not in plain:
            plain[content] = spells_special_tokens(inputs.corpus, run.config.data, inputs.tokenizer)
        if plain[content] is False:
            _rename(former, run, recorded)
        else:
            why = "its text spells special tokens, which were read as such" if plain[content] else "its tokens are gone"
            notice(f"{_not_taken(former, run)}: {why}")


def _candidates(run: Run) -> list[RunFolder]:
    """Folders of that label which were made before."""
    label = label_of(run.config, run.swept)
    paths = sorted(run.folder.path.parent.glob(f"{glob.escape(label)}-????????"))
    return [RunFolder(path) for path in paths if (path / "state.json").exists() and not is_signed(path / "config.yaml")]


def former_id(config: RunConfig, swept: Mapping[str, str], content: str) -> str:
    """What a run was called.

    Args:
        content: digest of its text, as it was then.
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
    settings = without(NOT_HASHED, settings)
    settings["corpus"] = content
    settings["lm"]["weights"] = sampled_digest(config.lm.name)
    return f"{label_of(config, swept)}-{digest_of(settings)[:8]}"


def sampled_digest(name: str) -> str:
    """Of an LM: a hub name stood for itself, a folder for its configuration, tokenizer and samples of its weights."""
    folder = find_folder(name)
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


def text_digest(config: RunConfig, inputs: Inputs) -> str:
    """Of a run's text, as it was then."""
    if config.data.source != "text":
        return inputs.corpus.content
    return f"text/{_of_files(tuple(find_text_files(config.data.path)))}/{config.data.column}"


@lru_cache(maxsize=1)
def _of_files(paths: tuple[Path, ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(path.suffix.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest())
    return digest.hexdigest()


def _recorded(former: RunFolder, run: Run) -> DictConfig | None:
    """The folder's own configuration, if it is that of the run."""
    assert run.named_for is not None
    try:
        recorded = read_config(former.config)
        own_id = run_id(typed_config(recorded), run.swept, run.named_for)
    except (
        OSError,
        DamagedFileError,
        OmegaConfBaseException,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        notice(f"{_not_taken(former, run)}: its config.yaml cannot be used ({first_line(error)})")
        return None
    if own_id != run.folder.run_id:
        notice(f"{_not_taken(former, run)}: by its own config.yaml it is {own_id}")
        return None
    return recorded


def _not_taken(former: RunFolder, run: Run) -> str:
    return f"{former.path} was made before ids had whole files in them, and is not taken over as {run.folder.run_id}"


@contextmanager
def _held(folder: RunFolder) -> Generator[None]:
    try:
        with hold(folder.lock):
            yield
    except HeldError as held:
        raise InputError(
            "output_dir", folder.path.parent, f"a folder whose former runs nobody works in: {held}"
        ) from held


def _rename(former: RunFolder, run: Run, recorded: DictConfig) -> None:
    folder = run.folder
    with _held(former):
        former.path.rename(folder.path)
        owner_file_of(folder.lock).unlink(missing_ok=True)
        settings: Any = OmegaConf.to_container(recorded)
        write_config(folder.config, settings)
        with suppress(DamagedFileError, FileNotFoundError):  # else its training says so
            write_json(folder.results, read_object(folder.results) | {"run_id": folder.run_id})
        with suppress(DamagedFileError):
            state = read_state(folder.state)
            if state is not None:
                write_state(folder.state, replace(state, run_id=folder.run_id), former_id=former.run_id)
    rename_member(folder.path.parent, former.run_id, folder.run_id)
    notice(f"{former.path} is now {folder.run_id}: ids have whole files in them now; its W&B run stays what it was")
