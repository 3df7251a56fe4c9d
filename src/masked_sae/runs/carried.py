"""A run as plain values, for another process to train."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from masked_sae.activations.sharing import Sharing
from masked_sae.config import typed_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.identity import Digests
from masked_sae.runs.run import Run
from masked_sae.settings import without_neutral


def carried(run: Run) -> dict[str, Any]:
    """A run as a job carries it. `force` has been carried out by whoever hands it on."""
    assert run.named_for is not None and run.shares is not None
    return {
        "folder": str(run.folder.path),
        "swept": dict(run.swept),
        "settings": without_neutral(replace(run.config, force=False)),
        "named_for": asdict(run.named_for),
        "shares": asdict(run.shares),
    }


def unpacked(one: Mapping[str, Any]) -> Run:
    """The run that `carried` was given. Users' own modules that it names are imported."""
    config = typed_config(OmegaConf.create(dict(one["settings"])))
    folder, named_for, shares = RunFolder(Path(one["folder"])), Digests(**one["named_for"]), Sharing(**one["shares"])
    return Run(folder, one["swept"], config, named_for, shares=shares)
