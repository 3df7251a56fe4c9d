"""An SAE from elsewhere as its evaluation has it on record: what its files say, and what it was measured on.

How it was trained nobody here knows, so nothing is said of it: no mask, no optimiser, no seed, no number of tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from masked_sae.activations.settings import LMSettings
from masked_sae.config import RunConfig
from masked_sae.digests import of_all
from masked_sae.errors import InputError
from masked_sae.interop.loading import FoundSAE, digest_of, read_metadata, read_sizes
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import REFERENCE
from masked_sae.text.settings import DataSettings

_HOW_MUCH = ("train_tokens", "window_tokens", "max_epochs")  # is read of a source without an end
_TRAINING = (
    "batch_size",
    "scale_tokens",
    "ahead",
    *_HOW_MUCH,
)  # keys of `data` that say nothing of what was measured on
_WHERE = ("device", "threads")  # keys of `trainer` that measuring has


def describe(found: FoundSAE, settings: RunConfig, named: Sequence[str]) -> dict[str, Any]:
    """The configuration that is recorded of an SAE from elsewhere. LM, hook point and context are those of its
    files, unless the command line names them.

    Args:
        settings: of the command.
        named: the keys that stood on the command line.

    Raises:
        InputError: the folder holds no SAE, or does not say what of.
    """
    folder = found.folder
    metadata = read_metadata(folder, settings.digest_memory)
    lm, data = _lm(folder, metadata, settings.lm, named), _data(folder, metadata, settings.data, named)
    trainer = asdict(settings.trainer)
    said = {key: metadata[key] for key in ("model_name", "hook_name", "context_size") if key in metadata}
    origin = {"origin": found.origin, "digest": digest_of(folder, settings.digest_memory), "says": said}
    return trimmed(
        {
            REFERENCE: origin | {"reads_like": {key: getattr(data, key) for key in _HOW_MUCH}},
            "lm": asdict(lm),
            "data": asdict(data),
            "trainer": {key: trainer[key] for key in _WHERE},
            "sae": _sae(folder),
        }
    )


def trimmed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what says how to train."""
    data = {key: value for key, value in record["data"].items() if key not in _TRAINING}
    trainer = {key: value for key, value in (record.get("trainer") or {}).items() if key in _WHERE}
    return {**record, "data": data, "trainer": trainer}


def readable(record: Mapping[str, Any], settings: RunConfig) -> dict[str, Any]:
    """A record with what reading the text takes besides. Of a source without an end as much is read as before."""
    data = {key: getattr(settings.data, key) for key in _TRAINING} | dict(record[REFERENCE].get("reads_like") or {})
    return {key: value for key, value in record.items() if key != REFERENCE} | {"data": data | dict(record["data"])}


def place_of(found: FoundSAE, record: Mapping[str, Any], settings: RunConfig) -> RunFolder:
    """Where its results go: named after the SAE, its content, and what it is measured on."""
    read_on = {key: value for key, value in record["data"].items() if key != "store_dir"}
    lm = {key: value for key, value in record["lm"].items() if key not in ("device", "device_map")}
    digest = of_all([record[REFERENCE]["digest"], repr(sorted(lm.items())), repr(sorted(read_on.items()))])
    return RunFolder(Path(settings.output_dir) / settings.name / f"{found.name}-{digest[:8]}")


def origin_of(folder: RunFolder) -> str | None:
    """Where the SAE is found that was measured into this folder, if it is from elsewhere and its record can be read."""
    try:
        record: Any = OmegaConf.to_container(OmegaConf.load(folder.config))
        return str(record[REFERENCE]["origin"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError, YAMLError, OmegaConfBaseException):
        return None


def _lm(folder: Path, metadata: Mapping[str, Any], lm: LMSettings, named: Sequence[str]) -> LMSettings:
    for key, said in (("name", "model_name"), ("hook_name", "hook_name")):
        if f"lm.{key}" in named or "lm" in named:
            continue
        if not metadata.get(said):
            raise InputError(f"lm.{key}", None, f"the LM's, as the SAE's files in {folder} do not name it")
        lm = replace(lm, **{key: str(metadata[said])})
    return lm


def _data(folder: Path, metadata: Mapping[str, Any], data: DataSettings, named: Sequence[str]) -> DataSettings:
    context = metadata.get("context_size")
    if not context or "data.context_length" in named:
        return data
    if not isinstance(context, int):
        raise InputError("sae", folder, f"a context_size that is a number: {context!r}")
    return replace(data, context_length=context)


def _sae(folder: Path) -> dict[str, Any]:
    """What is known of it by our names."""
    return {key: value for key, value in read_sizes(folder).items() if isinstance(value, (int, str))}
