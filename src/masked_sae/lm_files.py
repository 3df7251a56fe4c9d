"""Checkpoints of pretrained LMs, by hub name or local folder: where they are, and what tells them apart."""

import hashlib
import os
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from masked_sae.errors import InputError

_SAMPLE_BYTES = 1 << 16


def find_lm_folder(name: str) -> Path:
    """The folder of a checkpoint: a local one as it is, a hub name's after its download.

    Raises:
        InputError: the folder lacks weights or a configuration, or the hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        for pattern in ("config.json", "*.safetensors"):
            if not any(folder.glob(pattern)):
                what = "weights (*.safetensors)" if pattern.startswith("*") else pattern
                raise InputError("lm.name", name, f"a Hugging Face checkpoint: this folder holds no {what}")
        return folder.resolve()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError("lm.name", name, "a folder that exists, or a hub name such as EleutherAI/pythia-70m-deduped")
    return _download(name)


def lm_digest(name: str, revision: str | None = None, memory: Path | None = None, *, progress: bool = False) -> str:
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


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]

    @retry(
        retry=retry_if_exception_type((LocalEntryNotFoundError, ConnectionError, TimeoutError)),
        stop=stop_after_attempt(1 if os.environ.get("HF_HUB_OFFLINE") == "1" else 3),
        wait=wait_exponential(max=4),
        reraise=True,
    )
    def fetch() -> str:
        return snapshot_download(name, allow_patterns=patterns)

    try:
        return Path(fetch())
    except GatedRepoError:
        raise InputError(
            "lm.name", name, "an LM you have access to: accept its licence, then `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError("lm.name", name, "a local folder, or a name that the hub has") from None
    except (OSError, LocalEntryNotFoundError):
        valid = (
            "a hub that can be reached, or a local folder: where there is network, run "
            f"`hf download {name} --local-dir DIR`, copy DIR here and set lm.name=DIR"
        )
        raise InputError("lm.name", name, valid) from None
