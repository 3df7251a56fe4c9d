"""Datasets of the Hugging Face hub, streamed: from the hub, or with HF_HUB_OFFLINE=1 from its client's cache."""

import os
from collections.abc import Iterable, Mapping
from typing import Any


def stream_rows(
    name: str, split: str, revision: str | None, configuration: str | None = None
) -> Iterable[Mapping[str, Any]]:
    """The rows of a split, in the dataset's own order.

    Args:
        name: of the hub, or a local folder.

    Raises:
        Exception: whatever the library says of what cannot be reached or read.
    """
    import datasets

    folder = _in_cache(name, revision)
    if folder is not None:
        name, revision = folder, None
    return datasets.load_dataset(name, configuration, split=split, revision=revision, streaming=True)


def _in_cache(name: str, revision: str | None) -> str | None:
    """Where `hf download` has put a dataset, of whose cache the library streams nothing by name; None with a network
    and where it is not.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if not is_offline_mode() or os.path.isdir(name):  # noqa: PTH112 - pathlib refuses some names
        return None
    try:
        return snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
