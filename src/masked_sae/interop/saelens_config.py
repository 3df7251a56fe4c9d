"""What SAELens' `cfg.json` says, of today's form and of the one before its version 6."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masked_sae.errors import InputError
from masked_sae.interop.forms import is_count, is_number, read_config_file, short

CONFIG = "cfg.json"
OF_LATENTS = {  # what an architecture has beside W_enc, W_dec and b_dec: vectors over latents
    "jumprelu": ("b_enc", "threshold"),
    "topk": ("b_enc",),
    "standard": ("b_enc",),
    "gated": ("b_gate", "r_mag", "b_mag"),
    "abstopk": ("b_enc",),
    "matching_pursuit": (),
}
READABLE = tuple(OF_LATENTS)
WITH_K = ("topk", "abstopk")
_WRITES_ELSEWHERE = "which writes at another hook point than it reads"
_IN_TRAINING = "a state of training: what SAELens' save_inference_model writes is read"
_UNREADABLE = {
    "transcoder": _WRITES_ELSEWHERE,
    "skip_transcoder": _WRITES_ELSEWHERE,
    "jumprelu_transcoder": _WRITES_ELSEWHERE,
    "jumprelu_skip_transcoder": _WRITES_ELSEWHERE,
    "crosscoder": "which reads several hook points",
    "temporal": "which reads the tokens before, too",
    "batchtopk": _IN_TRAINING,
    "matryoshka_batchtopk": _IN_TRAINING,
}
_UNFOLDABLE = {
    "layer_norm": "its decoder needs each activation's own mean and norm",
    "constant_norm_rescale": "its decoder needs each activation's own norm",
    "expected_average_only_in": "the factor that it was trained with is not in the folder",
    "covariance_whitening": "the covariance that it was trained with is not in the folder",
}
_OF_METADATA = (  # of the form before 6, in which they stood beside the SAE's own
    "model_name", "hook_name", "hook_head_index", "context_size", "prepend_bos", "dataset_path", "neuronpedia_id",
    "sae_lens_version", "sae_lens_training_version",
)  # fmt: skip


@dataclass(frozen=True)
class Pursuit:
    """How a Matching Pursuit SAE stops."""

    residual_threshold: float
    max_iterations: int | None
    stops_at_repeats: bool


@dataclass(frozen=True)
class SAELensConfig:
    """Attributes:
    raw: the file as it is.
    architecture: one of `READABLE`.
    declared: `d_in` and `d_sae`, whatever stands there.
    k: of `WITH_K`.
    subtracts: whether `b_dec` is taken from an activation before encoding.
    rescales: whether latents compete as if the decoder's rows had norm 1.
    older: whether it is of the form before 6.
    """

    raw: dict[str, Any]
    metadata: dict[str, Any]
    architecture: str
    declared: Mapping[str, Any]
    k: int | None
    subtracts: bool
    rescales: bool
    pursuit: Pursuit
    older: bool


def read_config(folder: Path) -> SAELensConfig:
    """The folder's `cfg.json`, with what is read of it in the form that it should have.

    Raises:
        InputError: it has another, or is of an SAE that does more than encode and decode an activation.
    """
    raw = read_config_file(folder, CONFIG)
    metadata = raw.get("metadata")
    metadata = raw["metadata"] = {} if metadata is None else metadata
    if not isinstance(metadata, dict):
        raise InputError("sae", folder, f"a readable SAE: its {CONFIG} is none (metadata is {short(metadata)})")
    older = _is_older(raw)
    config = _renewed(raw) if older else raw
    metadata = config["metadata"]
    _check_architecture(folder, config)
    _check_what_it_does(folder, config)
    _check_kinds(folder, config, metadata)
    return SAELensConfig(
        raw,
        metadata,
        config["architecture"],
        {key: config[key] for key in ("d_in", "d_sae") if key in config},
        int(config["k"]) if config["architecture"] in WITH_K else None,
        bool(config.get("apply_b_dec_to_input", True)),
        config["architecture"] in WITH_K and bool(config.get("rescale_acts_by_decoder_norm", False)),
        _pursuit(folder, config),
        older,
    )


def _is_older(raw: Mapping[str, Any]) -> bool:
    version = version_of(raw.get("sae_lens_version") or raw["metadata"].get("sae_lens_version"))
    return version is None or version < (6,)


def version_of(text: Any) -> tuple[int, ...] | None:
    """`6.54.12` as numbers, so that they compare; None where it is none."""
    if not isinstance(text, str) or len(text) > 30:
        return None
    numbers = text.partition("-")[0].split(".")
    return tuple(map(int, numbers)) if all(one.isascii() and one.isdigit() for one in numbers) else None


def _renewed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """An older file in today's form, by the rules of SAELens' own `handle_pre_6_0_config`."""
    config = dict(raw)
    for former, name in (("hook_point", "hook_name"), ("activation_fn_str", "activation_fn")):
        if former in config:
            config.setdefault(name, config.pop(former))
    metadata = {key: config[key] for key in _OF_METADATA if key in config} | config["metadata"]
    given = config.get("activation_fn_kwargs")
    if config.get("activation_fn") == "topk" and isinstance(given, dict) and given.get("k") is not None:
        config |= {"architecture": "topk", "k": given["k"]}
    config.setdefault("architecture", "standard")
    if isinstance(config.get("normalize_activations"), bool):
        config["normalize_activations"] = "expected_average_only_in" if config["normalize_activations"] else "none"
    if "hook_z" in str(metadata.get("hook_name")):
        config.setdefault("reshape_activations", "hook_z")
    return config | {"metadata": metadata}


def _check_architecture(folder: Path, config: Mapping[str, Any]) -> None:
    architecture = config.get("architecture")
    if architecture not in READABLE:
        why = _UNREADABLE.get(architecture) if isinstance(architecture, str) else None
        this = f"{short(architecture)}, {why}" if why else short(architecture)
        raise InputError("sae", folder, f"an architecture of {', '.join(READABLE)}; this is {this}")
    function = config.get("activation_fn", "relu")
    if function != ("topk" if architecture == "topk" and function == "topk" else "relu"):
        raise InputError("sae", folder, f"relu as activation_fn in {CONFIG}; this is {short(function)}")
    if config.get("finetuning_scaling_factor"):
        raise InputError("sae", folder, "an SAE without finetuning_scaling_factor (load it with an older SAELens)")


def _check_what_it_does(folder: Path, config: Mapping[str, Any]) -> None:
    scaled = config.get("normalize_activations", "none")
    if scaled not in ("none", None):
        why = _UNFOLDABLE.get(scaled, "unknown") if isinstance(scaled, str) else "unknown"
        valid = f"normalize_activations=none (fold it into the weights first); this has {short(scaled)}: {why}"
        raise InputError("sae", folder, valid)
    reshaped = config.get("reshape_activations", "none")
    if reshaped not in ("none", None):
        valid = (
            f"reshape_activations=none: one vector for each token, not one for each head; this has {short(reshaped)}"
        )
        raise InputError("sae", folder, valid)


def _check_kinds(folder: Path, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    for key in ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "stop_on_duplicate_support"):
        if not isinstance(config.get(key, False), bool | None):
            raise InputError("sae", folder, f"true or false as {key} in {CONFIG}; this is {short(config[key])}")
    for key in ("model_name", "hook_name"):
        if not isinstance(metadata.get(key), str | None):
            raise InputError("sae", folder, f"a text as {key} in {CONFIG}; this is {short(metadata[key])}")
    if config["architecture"] in WITH_K and not is_count(config.get("k")):
        raise InputError("sae", folder, f"a whole number above 0 as k; this is {short(config.get('k'))}")


def _pursuit(folder: Path, config: Mapping[str, Any]) -> Pursuit:
    least, most = config.get("residual_threshold", 1e-2), config.get("max_iterations")
    if config["architecture"] == "matching_pursuit":
        if not is_number(least) or not 0 <= least < 1e30:
            raise InputError("sae", folder, f"0 or more as residual_threshold in {CONFIG}; this is {short(least)}")
        if most is not None and not is_count(most):
            raise InputError("sae", folder, f"a whole number above 0 as max_iterations; this is {short(most)}")
        return Pursuit(float(least), None if most is None else int(most), config.get("stop_on_duplicate_support", True))
    return Pursuit(0.0, None, True)
