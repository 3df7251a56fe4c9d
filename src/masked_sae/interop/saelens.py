"""SAELens' format: `cfg.json` and `sae_weights.safetensors`.

Axes: D `d_in`, F `d_sae`.
"""

import json
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from masked_sae.digests import of_all, sha256
from masked_sae.errors import DamagedFileError, InputError, first_line
from masked_sae.files import folder_aside, read_object, remove_leftovers, write_json
from masked_sae.saes import InferenceSAE

_FORMAT_VERSION = "6.54.0"  # of SAELens; below 6 it would read another format
_CONFIG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"
_OF_LATENTS = {  # what an architecture has beside W_enc, W_dec and b_dec: vectors over latents
    "jumprelu": ("b_enc", "threshold"),
    "topk": ("b_enc",),
    "standard": ("b_enc",),
    "gated": ("b_gate", "r_mag", "b_mag"),
}
READABLE = tuple(_OF_LATENTS)
_FLOATS = ("F64", "F32", "F16", "BF16")
_SHOWN = 60  # characters of a value that is refused

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
        save_file(cpu, aside / _WEIGHTS)
        config["metadata"][_WEIGHTS_DIGEST] = sha256(aside / _WEIGHTS)
        config["metadata"][_CONFIG_DIGEST] = _config_digest(config)
        write_json(aside / _CONFIG, config)


def load_sae(folder: Path, memory: Path | None = None) -> tuple[InferenceSAE, dict[str, Any]]:
    """An SAE that SAELens or this project saved, and its metadata.

    Args:
        memory: a folder in which digests of files are remembered.

    Raises:
        InputError: the folder holds none, or one that does more than encode and decode an activation.
        DamagedFileError: this project exported it, and other bytes are there now.
    """
    config = _read_config(folder)
    _check_weights(folder, config)
    _check_digests(folder, config, memory)
    # Copied out of the file, which safetensors maps: an SAE in use does not change with it, nor die with it.
    weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in load_file(folder / _WEIGHTS).items()}
    for name, tensor in weights.items():
        _check_finite(folder, name, tensor)
    sae = _assemble(config, weights)
    for name in ("W_enc_DF", "b_enc_F", "W_dec_FD", "threshold_F"):
        tensor = getattr(sae, name)
        if tensor is not None:  # folding divides by a norm, and takes an exponential
            _check_finite(folder, f"{name.rpartition('_')[0]} as it is computed with", tensor)
    return sae, config["metadata"]


def read_metadata(folder: Path, memory: Path | None = None) -> dict[str, Any]:
    """The metadata of an SAE; the weights are digested where a digest of them is on record, and not read else.

    Raises:
        InputError, DamagedFileError: as `load_sae`, but for weights that are not finite.
    """
    config = _read_config(folder)
    _check_weights(folder, config)
    _check_digests(folder, config, memory)
    return config["metadata"]


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


def _read_config(folder: Path) -> dict[str, Any]:
    """`cfg.json`, with what is read of it in the form that it should have."""
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise InputError("sae", folder, f"a folder in SAELens' format: it holds no {name}")
    try:
        config = read_object(folder / _CONFIG)
    except DamagedFileError as error:
        raise InputError("sae", folder, f"a readable SAE: its {_CONFIG} is none ({error.why})") from error
    except OSError as error:
        raise InputError("sae", folder, f"a readable {_CONFIG} ({error.strerror})") from error
    metadata = config.get("metadata")
    config["metadata"] = metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict):
        raise InputError("sae", folder, f"a readable SAE: its {_CONFIG} is none (metadata is {_short(metadata)})")
    architecture = config.get("architecture")
    if architecture not in READABLE:
        raise InputError("sae", folder, f"an architecture of {', '.join(READABLE)}; this is {_short(architecture)}")
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") not in ("none", None):
            valid = f"{key}=none (fold it into the weights first); this has {_short(config[key])}"
            raise InputError("sae", folder, valid)
    for key in ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"):
        if not isinstance(config.get(key, False), bool | None):
            raise InputError("sae", folder, f"true or false as {key} in {_CONFIG}; this is {_short(config[key])}")
    for key in ("model_name", "hook_name"):
        if not isinstance(metadata.get(key), str | None):
            raise InputError("sae", folder, f"a text as {key} in {_CONFIG}; this is {_short(metadata[key])}")
    k = config.get("k")
    if architecture == "topk" and not (_is_number(k) and k >= 1 and k % 1 == 0):
        raise InputError("sae", folder, f"a whole number above 0 as k; this is {_short(k)}")
    return config


def _check_weights(folder: Path, config: dict[str, Any]) -> None:
    """Reads the head of the file alone. A file that was cut does not open: the head tells its length."""
    try:
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            dtypes = {name: one.get_dtype() for name, one in slices.items()}
    except SafetensorError as error:
        raise InputError("sae", folder, f"a readable SAE: its {_WEIGHTS} is none ({first_line(error)})") from error
    except OSError as error:
        raise InputError("sae", folder, f"a readable {_WEIGHTS} ({error.strerror or first_line(error)})") from error
    W_enc_shape = shapes.get("W_enc", ())
    if len(W_enc_shape) != 2 or 0 in W_enc_shape:
        raise InputError("sae", folder, f"W_enc of [d_in, d_sae] in {_WEIGHTS}; it has {_shown(shapes, 'W_enc')}")
    D, F = W_enc_shape
    for key, size in (("d_in", D), ("d_sae", F)):
        if config.get(key, size) != size:
            valid = f"{key}={size} in {_CONFIG}, for W_enc of {[D, F]}; this is {_short(config[key])}"
            raise InputError("sae", folder, valid)
    of_latents = dict.fromkeys(_OF_LATENTS[config["architecture"]], (F,))
    needed = {"W_enc": (D, F), "W_dec": (F, D), "b_dec": (D,), **of_latents}
    for name, shape in needed.items():
        if shapes.get(name) != shape:
            raise InputError("sae", folder, f"{name} of {list(shape)} in {_WEIGHTS}; it has {_shown(shapes, name)}")
        if dtypes[name] not in _FLOATS:
            raise InputError("sae", folder, f"{name} of {', '.join(_FLOATS)} in {_WEIGHTS}; it is {dtypes[name]}")
    for name in shapes.keys() - needed.keys():
        valid = f"nothing but {', '.join(needed)} in {_WEIGHTS}; it has {_short(name)}, too"
        raise InputError("sae", folder, valid)
    if config["architecture"] == "topk" and config["k"] > F:
        raise InputError("sae", folder, f"k of at most the {F} latents; this is {_short(config['k'])}")


def _check_digests(folder: Path, config: dict[str, Any], memory: Path | None) -> None:
    """Of what this project exported; others write no digests, and their folders are taken as they are."""
    metadata = config["metadata"]
    if metadata.get(_CONFIG_DIGEST, _config_digest(config)) != _config_digest(config):
        raise DamagedFileError(folder / _CONFIG, f"{', '.join(_COMPUTED_WITH)} are not as they were exported")
    if _WEIGHTS_DIGEST in metadata and metadata[_WEIGHTS_DIGEST] != sha256(folder / _WEIGHTS, memory, progress=True):
        raise DamagedFileError(folder / _WEIGHTS, "other bytes than were exported")


def _config_digest(config: dict[str, Any]) -> str:
    """Of what decides what is computed, where, and with which weights. Where the LM lies may be edited."""
    metadata = config["metadata"]
    parts = [*(config.get(key) for key in _COMPUTED_WITH), *(metadata.get(key) for key in _OF_METADATA)]
    return of_all([json.dumps(part, sort_keys=True) for part in parts])


def _check_finite(folder: Path, name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise InputError("sae", folder, f"finite numbers as {name}: {bad} of {tensor.numel()} are none")


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    """A value of somebody's cfg.json, however long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _shown(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "none"


def _assemble(config: dict[str, Any], weights: dict[str, Tensor]) -> InferenceSAE:
    architecture = config["architecture"]
    W_enc_DF, W_dec_FD, b_dec_D = weights["W_enc"], weights["W_dec"], weights["b_dec"]
    threshold_F: Tensor | None = None
    k: int | None = None
    if architecture == "gated":
        # On where x W_enc + b_gate > 0; then exp(r_mag) x W_enc + b_mag, which grows with it: a threshold says when.
        gain_F = weights["r_mag"].exp()
        b_enc_F = weights["b_mag"]
        threshold_F = (b_enc_F - gain_F * weights["b_gate"]).clamp_min(0)
        W_enc_DF = W_enc_DF * gain_F
    else:
        b_enc_F = weights["b_enc"]
        if architecture == "topk":
            k = int(config["k"])
            if config.get("rescale_acts_by_decoder_norm"):
                norm_F = W_dec_FD.norm(dim=1)
                W_enc_DF, b_enc_F, W_dec_FD = W_enc_DF * norm_F, b_enc_F * norm_F, W_dec_FD / norm_F[:, None]
        else:
            threshold_F = weights["threshold"] if architecture == "jumprelu" else torch.zeros_like(b_enc_F)
    subtracts = config.get("apply_b_dec_to_input", True)
    b_in_D = b_dec_D if subtracts else torch.zeros_like(b_dec_D)
    return InferenceSAE(W_enc_DF.contiguous(), b_enc_F, W_dec_FD.contiguous(), b_dec_D, b_in_D, threshold_F, k)
