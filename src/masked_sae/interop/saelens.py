"""SAELens' format: `cfg.json` and `sae_weights.safetensors`; what this project writes into it, and both read."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from masked_sae.digests import of_all, sha256
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.files import folder_aside, remove_leftovers, write_json
from masked_sae.interop.forms import check_computable, is_count
from masked_sae.interop.saelens_config import CONFIG, SAELensConfig, read_config
from masked_sae.interop.saelens_version import tell_doubt
from masked_sae.interop.saelens_weights import WEIGHTS, assemble, check_weights
from masked_sae.saes import InferenceSAE

_FORMAT_VERSION = "6.54.0"  # of SAELens; below 6 it would read another format

# What this project adds to the metadata: digests of the weights, and of the fields below.
_WEIGHTS_DIGEST, _CONFIG_DIGEST = "masked_sae_weights_sha256", "masked_sae_cfg_digest"
_COMPUTED_WITH = (
    "architecture", "k", "d_in", "d_sae", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm",
    "normalize_activations", "reshape_activations",
)  # fmt: skip
_OF_METADATA = ("hook_name", _WEIGHTS_DIGEST)


def export_sae(folder: Path, sae: InferenceSAE, metadata: dict[str, Any]) -> None:
    """Writes the SAE: SAELens' `topk` where it has a `k`, else `jumprelu`; with digests of what is computed with.

    Args:
        metadata: what SAELens keeps of the SAE's origin: `model_name`, `hook_name`, `context_size`, ….
    """
    config: dict[str, Any] = {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": _FORMAT_VERSION, **metadata},
    }
    weights = {"W_enc": sae.W_enc_DF, "b_enc": sae.b_enc_F, "W_dec": sae.W_dec_FD, "b_dec": sae.b_dec_D}
    if sae.threshold_F is not None:
        config["architecture"] = "jumprelu"
        weights["threshold"] = sae.threshold_F
    else:
        config |= {"architecture": "topk", "k": sae.k, "rescale_acts_by_decoder_norm": False}
    if folder.exists():
        return  # written aside and renamed: whole
    remove_leftovers(folder)
    with folder_aside(folder) as aside:
        cpu = {name: tensor.to("cpu", torch.float32).contiguous() for name, tensor in weights.items()}
        save_file(cpu, aside / WEIGHTS)
        config["metadata"][_WEIGHTS_DIGEST] = sha256(aside / WEIGHTS)
        config["metadata"][_CONFIG_DIGEST] = _config_digest(config)
        write_json(aside / CONFIG, config)


def load_sae(folder: Path, memory: Path | None = None) -> tuple[InferenceSAE, dict[str, Any]]:
    """An SAE that SAELens or this project saved, and its metadata.

    Args:
        memory: a folder in which digests of files are remembered.

    Raises:
        InputError: the folder holds none, or one that does more than encode and decode an activation.
        DamagedFileError: this project exported it, and other bytes are there now.
    """
    config = _checked(folder, memory)
    # Copied out of the file, which safetensors maps: an SAE in use does not change with it, nor die with it.
    read = load_file(folder / WEIGHTS)
    sae = assemble(folder, config, {name: tensor.to(torch.float32, copy=True) for name, tensor in read.items()})
    check_computable(folder, sae)
    if _WEIGHTS_DIGEST not in config.metadata:
        tell_doubt(folder, config, sae)
    return sae, config.metadata


def read_metadata(folder: Path, memory: Path | None = None) -> dict[str, Any]:
    """The metadata of an SAE; the weights are digested where a digest of them is on record, and not read else.

    Raises:
        InputError, DamagedFileError: as `load_sae`, but for weights that are not finite.
    """
    return _checked(folder, memory).metadata


def weights_digest(folder: Path, memory: Path | None = None) -> str:
    """What stands for the weights that this project exported.

    Raises:
        InputError: the folder holds no such SAE.
        DamagedFileError: other bytes are there now.
    """
    metadata = read_metadata(folder, memory)
    if _WEIGHTS_DIGEST not in metadata:
        raise InputError("sae", folder, "an SAE that this project exported")
    return metadata[_WEIGHTS_DIGEST]


def check_sae(folder: Path, memory: Path | None = None) -> None:
    """Whether `load_sae` would have it. Costs next to nothing where the digest of an export is remembered.

    Raises:
        InputError, DamagedFileError: as `load_sae`.
    """
    if _WEIGHTS_DIGEST not in read_metadata(folder, memory):
        load_sae(folder, memory)


def read_sizes(folder: Path) -> dict[str, Any]:
    """`architecture`, `d_in`, `d_sae` and `k`, as far as they are told."""
    config = read_config(folder)
    latents = 2 if config.architecture == "abstopk" else 1  # of ours for each: see `forms.both_signs`
    told: dict[str, Any] = {"architecture": config.architecture, **config.declared, "k": config.k}
    found = {key: int(value) if is_count(value) else value for key, value in told.items()}  # there is a k of 32.0, too
    return {key: value * latents if key == "d_sae" else value for key, value in found.items() if value is not None}


def files_of(folder: Path) -> list[Path]:
    """What an SAE is told apart by."""
    return sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors"))


def _checked(folder: Path, memory: Path | None) -> SAELensConfig:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            others = " and neither config.json with ae.pt, dictionary_learning's" if name == CONFIG else ""
            raise InputError("sae", folder, f"a folder in SAELens' format: it holds no {name}{others}")
    config = read_config(folder)
    check_weights(folder, config)
    _check_digests(folder, config.raw, memory)
    return config


def _check_digests(folder: Path, config: dict[str, Any], memory: Path | None) -> None:
    """Of what this project exported; others write no digests, and their folders are taken as they are."""
    metadata = config["metadata"]
    if metadata.get(_CONFIG_DIGEST, _config_digest(config)) != _config_digest(config):
        raise DamagedFileError(folder / CONFIG, f"{', '.join(_COMPUTED_WITH)} are not as they were exported")
    if _WEIGHTS_DIGEST in metadata and metadata[_WEIGHTS_DIGEST] != sha256(folder / WEIGHTS, memory, progress=True):
        raise DamagedFileError(folder / WEIGHTS, "other bytes than were exported")


def _config_digest(config: dict[str, Any]) -> str:
    """Of what decides what is computed, where, and with which weights. Where the LM lies may be edited."""
    metadata = config["metadata"]
    parts = [*(config.get(key) for key in _COMPUTED_WITH), *(metadata.get(key) for key in _OF_METADATA)]
    return of_all([json.dumps(part, sort_keys=True) for part in parts])
