"""SAELens' format: `cfg.json` and `sae_weights.safetensors`.

Axes: D `d_in`, F `d_sae`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from masked_sae.errors import InputError
from masked_sae.files import folder_aside, remove_leftovers, write_json
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


def export_sae(folder: Path, sae: InferenceSAE, metadata: dict[str, Any]) -> None:
    """Writes the SAE: SAELens' `topk` where it has a `k`, else `jumprelu`.

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
        write_json(aside / _CONFIG, config)


def load_sae(folder: Path) -> tuple[InferenceSAE, dict[str, Any]]:
    """An SAE that SAELens or this project saved, and its metadata.

    Raises:
        InputError: the folder holds none, or one that does more than encode and decode an activation.
    """
    config = _read_config(folder)
    _check_weights(folder, config["architecture"])
    weights = {name: tensor.float() for name, tensor in load_file(folder / _WEIGHTS).items()}
    return _assemble(config, weights), config["metadata"]


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of an SAE, without reading its weights.

    Raises:
        InputError: as `load_sae`: the file of weights is looked at, for its length and for names and shapes.
    """
    config = _read_config(folder)
    _check_weights(folder, config["architecture"])
    return config["metadata"]


def check_sae(folder: Path, memory: Path | None = None) -> None:
    load_sae(folder)


def _read_config(folder: Path) -> dict[str, Any]:
    """`cfg.json`, with what is read of it in the form that it should have."""
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise InputError("sae", folder, f"a folder in SAELens' format: it holds no {name}")
    try:
        config: Any = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        config = {**config, "metadata": dict(config.get("metadata") or {})}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError("sae", folder, f"a readable SAE: its {_CONFIG} is none ({error})") from error
    architecture = config.get("architecture")
    if architecture not in READABLE:
        raise InputError("sae", folder, f"an architecture of {', '.join(READABLE)}; this is {architecture}")
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") not in ("none", None):
            raise InputError("sae", folder, f"{key}=none (fold it into the weights first); this has {config[key]}")
    k = config.get("k")
    if architecture == "topk" and not (isinstance(k, (int, float)) and k >= 1 and k % 1 == 0):
        raise InputError("sae", folder, f"a whole number above 0 as k; this is {k}")
    return config


def _check_weights(folder: Path, architecture: str) -> None:
    """Reads the head of the file alone. A file that was cut does not open: the head tells its length."""
    try:
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise InputError("sae", folder, f"a readable SAE: its {_WEIGHTS} is none ({error})") from error
    W_enc_shape = shapes.get("W_enc", ())
    if len(W_enc_shape) != 2:
        raise InputError("sae", folder, f"W_enc of [d_in, d_sae] in {_WEIGHTS}; it has {_shown(shapes, 'W_enc')}")
    D, F = W_enc_shape
    needed = {"W_dec": (F, D), "b_dec": (D,), **dict.fromkeys(_OF_LATENTS[architecture], (F,))}
    for name, shape in needed.items():
        if shapes.get(name) != shape:
            raise InputError("sae", folder, f"{name} of {list(shape)} in {_WEIGHTS}; it has {_shown(shapes, name)}")


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
