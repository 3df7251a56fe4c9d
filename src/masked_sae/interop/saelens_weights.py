"""SAELens' `sae_weights.safetensors`: its form, and the SAE that is made of it.

Axes: D `d_in`, F `d_sae`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from masked_sae.errors import InputError, first_line
from masked_sae.interop.forms import both_signs, check_finite, gated, short
from masked_sae.interop.saelens_config import CONFIG, OF_LATENTS, WITH_K, SAELensConfig
from masked_sae.saes import InferenceSAE
from masked_sae.saes.matching_pursuit import MatchingPursuitSAE

WEIGHTS = "sae_weights.safetensors"
_FLOATS = ("F64", "F32", "F16", "BF16")
_ONES = "scaling_factor"  # which SAELens once wrote where it scaled nothing


def check_weights(folder: Path, config: SAELensConfig) -> None:
    """Reads the head of the file alone. A file that was cut does not open: the head tells its length.

    Raises:
        InputError: it is not what `config` tells of.
    """
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            dtypes = {name: one.get_dtype() for name, one in slices.items()}
    except SafetensorError as error:
        raise InputError("sae", folder, f"a readable SAE: its {WEIGHTS} is none ({first_line(error)})") from error
    except OSError as error:
        raise InputError("sae", folder, f"a readable {WEIGHTS} ({error.strerror or first_line(error)})") from error
    D, F = _sizes(folder, config, shapes)
    needed = _needed(config, D, F)
    for name, shape in needed.items():
        if shapes.get(name) != shape:
            raise InputError("sae", folder, f"{name} of {list(shape)} in {WEIGHTS}; it has {_shown(shapes, name)}")
        if dtypes[name] not in _FLOATS:
            raise InputError("sae", folder, f"{name} of {', '.join(_FLOATS)} in {WEIGHTS}; it is {dtypes[name]}")
    for name in shapes.keys() - needed.keys():
        if not (config.older and name == _ONES and dtypes[name] in _FLOATS):
            valid = f"nothing but {', '.join(needed)} in {WEIGHTS}; it has {short(name)}, too"
            raise InputError("sae", folder, valid)
    if config.k is not None and config.k > F:
        raise InputError("sae", folder, f"k of at most the {F} latents; this is {short(config.k)}")
    if (config.pursuit.max_iterations or 0) > F:
        valid = f"max_iterations of at most the {F} latents; this is {short(config.pursuit.max_iterations)}"
        raise InputError("sae", folder, valid)


def _sizes(folder: Path, config: SAELensConfig, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """`d_in` and `d_sae`, by the encoder; by the decoder where that is both."""
    name, sizes = ("W_dec", "d_sae, d_in") if config.architecture == "matching_pursuit" else ("W_enc", "d_in, d_sae")
    shape = shapes.get(name, ())
    if len(shape) != 2 or 0 in shape:
        raise InputError("sae", folder, f"{name} of [{sizes}] in {WEIGHTS}; it has {_shown(shapes, name)}")
    D, F = shape if name == "W_enc" else reversed(shape)
    for key, size in (("d_in", D), ("d_sae", F)):
        if config.declared.get(key, size) != size:
            this = short(config.declared[key])
            raise InputError("sae", folder, f"{key}={size} in {CONFIG}, for {name} of {list(shape)}; this is {this}")
    return D, F


def _needed(config: SAELensConfig, D: int, F: int) -> dict[str, tuple[int, ...]]:
    of_latents = dict.fromkeys(OF_LATENTS[config.architecture], (F,))
    encoder = {} if config.architecture == "matching_pursuit" else {"W_enc": (D, F)}
    return {**encoder, "W_dec": (F, D), "b_dec": (D,), **of_latents}


def _shown(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "none"


def assemble(folder: Path, config: SAELensConfig, weights: Mapping[str, Tensor]) -> InferenceSAE:
    """The SAE of weights whose form was checked.

    Raises:
        InputError: they are not finite, or scale latents.
    """
    for name, tensor in weights.items():
        check_finite(folder, name, tensor)
    scaling = weights.get(_ONES)
    if scaling is not None and not torch.allclose(scaling, torch.ones_like(scaling)):
        raise InputError("sae", folder, f"1 for each latent as {_ONES} (load it with an older SAELens)")
    W_dec_FD, b_dec_D = weights["W_dec"], weights["b_dec"]
    b_in_D = b_dec_D if config.subtracts else torch.zeros_like(b_dec_D)
    if config.architecture == "matching_pursuit":
        return _pursuing(config, W_dec_FD, b_in_D)
    W_enc_DF = weights["W_enc"]
    if config.architecture == "gated":
        b_gate_F, r_mag_F, b_mag_F = (weights[name] for name in OF_LATENTS["gated"])
        return gated(W_enc_DF, b_gate_F, r_mag_F, b_mag_F, W_dec_FD, b_dec_D, b_in_D)
    b_enc_F = weights["b_enc"]
    if config.architecture in WITH_K:
        if config.rescales:
            norm_F = W_dec_FD.norm(dim=1)
            W_enc_DF, b_enc_F, W_dec_FD = W_enc_DF * norm_F, b_enc_F * norm_F, W_dec_FD / norm_F[:, None]
        sae = InferenceSAE(W_enc_DF, b_enc_F, W_dec_FD, b_dec_D, b_in_D, k=config.k)
        return both_signs(sae) if config.architecture == "abstopk" else sae
    threshold_F = weights["threshold"] if config.architecture == "jumprelu" else torch.zeros_like(b_enc_F)
    return InferenceSAE(W_enc_DF, b_enc_F, W_dec_FD, b_dec_D, b_in_D, threshold_F)


def _pursuing(config: SAELensConfig, W_dec_FD: Tensor, b_in_D: Tensor) -> MatchingPursuitSAE:
    """SAELens adds `b_dec` to a reconstruction only where it was taken from the activation."""
    F, D = W_dec_FD.shape
    zeros_F = W_dec_FD.new_zeros(F)
    return MatchingPursuitSAE(
        W_dec_FD.T.contiguous(),
        zeros_F,
        W_dec_FD,
        b_in_D,
        b_in_D,
        zeros_F,
        residual_threshold=config.pursuit.residual_threshold,
        iterations=config.pursuit.max_iterations or D,
        stops_at_repeats=config.pursuit.stops_at_repeats,
    )
