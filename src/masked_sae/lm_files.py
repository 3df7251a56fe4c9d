"""Checkpoints of pretrained LMs, by hub name or local folder: where they are, and what tells them apart."""

import json
import os
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from masked_sae import digests
from masked_sae.bundled import find_folder
from masked_sae.errors import DamagedFileError, InputError, first_line
from masked_sae.files import read_object

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SMALL = ("*.json", "*.txt", "*.model")  # what a configuration and a tokenizer are made of
_CHANGES_NOTHING = ("transformers_version", "_name_or_path", "_commit_hash")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def find_lm_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a whole checkpoint: a local one as it is, a hub name's after its download.

    Args:
        revision: of a hub name: a branch, tag or commit.

    Raises:
        InputError: the folder lacks weights or a configuration, or the hub cannot be reached.
    """
    folder = find_tokenizer_folder(name, revision)
    if _is_folder(name):
        missing = [file for file in weight_files(name, folder) if not (folder / file).is_file()]
        if missing:
            raise InputError("lm.name", name, f"a folder that holds the file {missing[0]} too")
        return folder
    weights = weight_files(name, folder) if (folder / INDEX).is_file() else []
    whole = _download(name, folder.name, (*_SMALL, WEIGHTS, *weights))
    if not all((whole / file).is_file() for file in weights or [WEIGHTS]):  # a part of a snapshot, without network
        _ask_hub(name, whole, weights)
        raise _unreachable(name)
    return whole


def find_tokenizer_folder(name: str, revision: str | None = None) -> Path:
    """As `find_lm_folder`, but a hub name's weights need not be there: they are not downloaded."""
    if _is_folder(name):
        if revision is not None:
            raise InputError("lm.revision", revision, f"null: {name} is a folder, which has no revisions")
        folder = find_folder(name).resolve()
    elif not name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError("lm.name", name, "a folder that exists, or a hub name such as EleutherAI/pythia-70m-deduped")
    else:
        folder = _download(name, revision, _SMALL)
    if (folder / "adapter_config.json").exists():  # of a LoRA often all that there is
        raise InputError("lm.name", name, "a checkpoint that an adapter is merged into: here is adapter_config.json")
    if not (folder / "config.json").exists():
        raise InputError("lm.name", name, "a Hugging Face checkpoint: this folder holds no config.json")
    if _is_folder(name):
        weight_files(name, folder)
    return folder


def lm_digest(name: str, revision: str | None = None, memory: Path | None = None, progress: bool = False) -> str:
    """Of a checkpoint's configuration and of all of its weights: the same by hub name and by folder.

    No weights are downloaded for it: of those that are not here, the hub tells the digests.

    Args:
        memory: see `digests.sha256`.

    Raises:
        InputError: as `find_lm_folder`; or the configuration cannot be read.
    """
    folder = find_tokenizer_folder(name, revision)
    config = {key: value for key, value in read_lm_config(name, folder).items() if key not in _CHANGES_NOTHING}
    weights = _weight_digests(name, folder, memory, progress)
    return digests.of_all([json.dumps(config, sort_keys=True), *(digest for _, digest in sorted(weights.items()))])


def read_lm_config(name: str, folder: Path) -> dict[str, Any]:
    """What a checkpoint's config.json holds.

    Raises:
        InputError: it is damaged.
    """
    config = _read(name, folder / "config.json")
    if "transformers_weights" in config:
        raise InputError("lm.name", name, f"a checkpoint with its weights in {WEIGHTS}: config.json names other files")
    return config


def shortened(error: BaseException) -> str:
    """What another library says about a checkpoint, in a line."""
    text = " ".join(str(error).split())
    if not text or type(error) in (KeyError, StopIteration):
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= 240 else text[:240] + "…"


def _weight_digests(name: str, folder: Path, memory: Path | None, progress: bool) -> dict[str, str]:
    """SHA-256 of each weight file, by its name."""
    local = _is_folder(name)
    here: Sequence[str] = []
    if local or (folder / INDEX).is_file() or (folder / WEIGHTS).is_file():
        here = weight_files(name, folder)
    if not here or not all((folder / file).is_file() for file in here):
        if not local:
            return _ask_hub(name, folder, here)
        find_lm_folder(name)  # says what is missing
    return {file: _digest(name, folder / file, memory, progress, of_hub=not local) for file in here}


def _digest(name: str, path: Path, memory: Path | None, progress: bool, of_hub: bool) -> str:
    blob = path.resolve()
    if of_hub and blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name  # the hub's own cache names it by its digest
    try:
        return digests.sha256(path, memory, progress=progress)
    except OSError as error:
        raise InputError("lm.name", name, f"weights that can be read ({error})") from error


def weight_files(name: str, folder: Path) -> list[str]:
    """The weight files that are read, which may not be there yet.

    Raises:
        InputError: there are none, or the index names what it may not.
    """
    names = {WEIGHTS} if (folder / WEIGHTS).exists() else set[str]()
    if (folder / INDEX).exists():
        listed = _read(name, folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise InputError("lm.name", name, f"a weight_map in {INDEX}")
        for file in listed.values():
            if not isinstance(file, str) or not file.endswith(".safetensors"):
                raise InputError("lm.name", name, f"weights as *.safetensors: {INDEX} names {file!r}")
            if file.startswith("/") or "\\" in file or "\0" in file or ".." in PurePosixPath(file).parts:
                raise InputError("lm.name", name, f"weights inside the folder: {INDEX} names {file!r}")
            names.add(file)
    if not names:
        others = [path.name for pattern in ("*.bin", "*.pt", "*.safetensors") for path in folder.glob(pattern)]
        held = f"no weights ({WEIGHTS})" + (f" but {others[0]}" if others else "")
        raise InputError("lm.name", name, f"a Hugging Face checkpoint: this folder holds {held}")
    return sorted(names)


def _read(name: str, path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except DamagedFileError as error:
        raise InputError("lm.name", name, f"a checkpoint with a whole {path.name} ({error.why})") from error
    except OSError as error:
        raise InputError("lm.name", name, f"a checkpoint whose {path.name} can be read ({error})") from error


def _is_folder(name: str) -> bool:
    try:
        return bool(name) and find_folder(name).is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, out of bounds, of a user who is not there
        raise InputError("lm.name", name, f"a folder that can be read, or a hub name ({first_line(error)})") from error


def _ask_hub(name: str, folder: Path, listed: Sequence[str]) -> dict[str, str]:
    """What the hub has as the digests of weight files that are not here."""
    from huggingface_hub import HfApi

    with _hub_errors(name, folder.name):
        info = _with_patience(lambda: HfApi().model_info(name, revision=folder.name, files_metadata=True))
    found = {file.rfilename: file for file in info.siblings or []}
    wanted = {*listed, *({WEIGHTS} & found.keys())}
    if not wanted or not wanted <= found.keys():
        missing = next(iter(wanted - found.keys()), WEIGHTS)
        raise InputError("lm.name", name, f"an LM with weights as *.safetensors: on the hub it has no {missing}")
    known = {file: lfs.sha256 for file in wanted if (lfs := found[file].lfs) is not None}
    if len(known) < len(wanted):  # small ones that the hub keeps without a digest
        whole = find_lm_folder(name, folder.name)
        known |= {file: _digest(name, whole / file, None, False, of_hub=True) for file in wanted - known.keys()}
    return known


@lru_cache(maxsize=64)  # one answer for all members of a sweep, even if the branch moves meanwhile
def _download(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silent = patterns == _SMALL and not are_progress_bars_disabled()
    if silent:
        disable_progress_bars()
    try:
        with _hub_errors(name, revision):
            found = _with_patience(lambda: snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    finally:
        if silent:
            enable_progress_bars()
    return Path(found)


def _with_patience(ask: Any) -> Any:
    from huggingface_hub.errors import LocalEntryNotFoundError

    attempts = retry(
        retry=retry_if_exception_type((LocalEntryNotFoundError, ConnectionError, TimeoutError)),
        stop=stop_after_attempt(1 if os.environ.get("HF_HUB_OFFLINE") == "1" else 3),
        wait=wait_exponential(max=4),
        reraise=True,
    )
    return attempts(ask)()


@contextmanager
def _hub_errors(name: str, revision: str | None) -> Generator[None]:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except InputError:
        raise
    except GatedRepoError:
        raise InputError(
            "lm.name", name, "an LM you have access to: accept its licence, then `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise InputError("lm.revision", revision, f"a branch, tag or commit of {name}") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError("lm.name", name, "a local folder, or a name that the hub has") from None
    except Exception:  # noqa: BLE001 - each version of the hub's client has its own errors of the network
        raise _unreachable(name) from None


def _unreachable(name: str) -> InputError:
    return InputError(
        "lm.name",
        name,
        "a hub that can be reached, or a local folder: where there is network, run "
        f"`hf download {name} --local-dir DIR`, copy DIR here and set lm.name=DIR",
    )
