"""dictionary_learning's format, in which SAEBench's SAEs are published: `config.json` and `ae.pt`.

Axes: D `d_in`, F `d_sae`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masked_sae.errors import InputError
from masked_sae.interop.forms import check_computable, check_finite, gated, is_count, read_config_file, short
from masked_sae.interop.torch_files import check_archive, load_tensors
from masked_sae.saes import InferenceSAE

CONFIG, WEIGHTS = "config.json", "ae.pt"
_RESIDUAL = re.compile(r"resid_post_layer_(\d+)")
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Class:
    """One of dictionary_learning's classes.

    Attributes:
        shapes: of its tensors, in letters: `FD` is (F, D), an empty text one number.
        inference: the SAE as its `encode` and `decode` compute.
        has_k: whether it keeps the `k` largest latents of each activation.
        may_have: tensors that nothing here is computed with.
    """

    shapes: Mapping[str, str]
    inference: Callable[[Weights, int | None], InferenceSAE]
    has_k: bool = False
    may_have: tuple[str, ...] = ()


def _linear(weights: Weights, bias: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_enc, b_enc, W_dec and b_dec, where encoder and decoder are linear layers."""
    W_enc_DF, W_dec_FD = weights["encoder.weight"].T.contiguous(), weights["decoder.weight"].T.contiguous()
    return W_enc_DF, weights["encoder.bias"], W_dec_FD, weights[bias]


def _relu(weights: Weights, k: int | None) -> InferenceSAE:
    """Decoder rows get norm 1, as the library gives them when it loads one."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = _linear(weights, "bias")
    return InferenceSAE(W_enc_DF, b_enc_F, W_dec_FD, b_dec_D, b_dec_D, torch.zeros_like(b_enc_F)).with_unit_rows()


def _relu_of_april(weights: Weights, k: int | None) -> InferenceSAE:
    """The bias is not taken from the activation; the library multiplies latents by the rows' norms itself."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = _linear(weights, "decoder.bias")
    b_in_D, threshold_F = torch.zeros_like(b_dec_D), torch.zeros_like(b_enc_F)
    return InferenceSAE(W_enc_DF, b_enc_F, W_dec_FD, b_dec_D, b_in_D, threshold_F).with_unit_rows()


def _gated(weights: Weights, k: int | None) -> InferenceSAE:
    W_enc_DF, W_dec_FD = weights["encoder.weight"].T.contiguous(), weights["decoder.weight"].T.contiguous()
    biases = weights["gate_bias"], weights["r_mag"], weights["mag_bias"]
    return gated(W_enc_DF, *biases, W_dec_FD, weights["decoder_bias"], weights["decoder_bias"])


def _jumprelu(weights: Weights, k: int | None) -> InferenceSAE:
    b_dec_D = weights["b_dec"]
    b_in_D = torch.zeros_like(b_dec_D)
    return InferenceSAE(weights["W_enc"], weights["b_enc"], weights["W_dec"], b_dec_D, b_in_D, weights["threshold"])


def _topk(weights: Weights, k: int | None) -> InferenceSAE:
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = _linear(weights, "b_dec")
    return InferenceSAE(W_enc_DF, b_enc_F, W_dec_FD, b_dec_D, b_dec_D, k=k)


def _batch_topk(weights: Weights, k: int | None) -> InferenceSAE:
    """Below 0 stands a threshold that was never learned: every positive latent is active."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = _linear(weights, "b_dec")
    return InferenceSAE(W_enc_DF, b_enc_F, W_dec_FD, b_dec_D, b_dec_D, weights["threshold"].expand_as(b_enc_F).clone())


def _matryoshka(weights: Weights, k: int | None) -> InferenceSAE:
    b_enc_F, b_dec_D = weights["b_enc"], weights["b_dec"]
    threshold_F = weights["threshold"].expand_as(b_enc_F).clone()
    return InferenceSAE(weights["W_enc"], b_enc_F, weights["W_dec"], b_dec_D, b_dec_D, threshold_F)


_LAYERS = {"encoder.weight": "FD", "decoder.weight": "DF"}
_MATRICES = {"W_enc": "DF", "b_enc": "F", "W_dec": "FD", "b_dec": "D"}
_CLASSES = {
    "AutoEncoder": _Class({**_LAYERS, "encoder.bias": "F", "bias": "D"}, _relu),
    "AutoEncoderNew": _Class({**_LAYERS, "encoder.bias": "F", "decoder.bias": "D"}, _relu_of_april),
    "GatedAutoEncoder": _Class(
        {**_LAYERS, "decoder_bias": "D", "r_mag": "F", "gate_bias": "F", "mag_bias": "F"}, _gated
    ),
    "JumpReluAutoEncoder": _Class({**_MATRICES, "threshold": "F"}, _jumprelu),
    "AutoEncoderTopK": _Class(
        {**_LAYERS, "encoder.bias": "F", "b_dec": "D"}, _topk, has_k=True, may_have=("k", "threshold")
    ),
    "BatchTopKSAE": _Class(
        {**_LAYERS, "encoder.bias": "F", "b_dec": "D", "threshold": ""}, _batch_topk, may_have=("k",)
    ),
    "MatryoshkaBatchTopKSAE": _Class({**_MATRICES, "threshold": ""}, _matryoshka, may_have=("k", "group_sizes")),
}
READABLE = tuple(_CLASSES)
_UNREADABLE = {
    "CrossCoder": "which reads several hook points",
    "BatchTopKCrossCoder": "which reads several hook points",
    "IdentityDict": "which has no latents",
}


def is_one(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def load_sae(folder: Path, memory: Path | None = None) -> tuple[InferenceSAE, dict[str, Any]]:
    """An SAE that dictionary_learning saved, as its own code encodes and decodes, and its metadata.

    Raises:
        InputError: it is none, or its `ae.pt` holds or names anything but tensors: nothing of it is run.
    """
    trainer = _read_trainer(folder)
    kind = _CLASSES[trainer["dict_class"]]
    weights = load_tensors(folder / WEIGHTS)
    _check_shapes(folder, kind, weights, trainer["activation_dim"], trainer["dict_size"])
    k = _find_k(folder, weights, trainer) if kind.has_k else None
    used = {name: tensor.to(torch.float32) for name, tensor in weights.items() if name in kind.shapes}
    for name, tensor in used.items():
        check_finite(folder, name, tensor)
    sae = kind.inference(used, k)
    check_computable(folder, sae)
    return sae, _metadata(folder)


def read_metadata(folder: Path, memory: Path | None = None) -> dict[str, Any]:
    """What its files say of its origin, under SAELens' names. The tensors are not read.

    Raises:
        InputError: as `load_sae`, but for what only the tensors show.
    """
    check_archive(folder / WEIGHTS)
    return _metadata(folder)


def read_sizes(folder: Path) -> dict[str, Any]:
    """`architecture`, the library's name of its class; `d_in`, `d_sae` and `k`, as far as they are told."""
    trainer = _read_trainer(folder)
    sizes = {"architecture": "dict_class", "d_in": "activation_dim", "d_sae": "dict_size", "k": "k"}
    told = {ours: trainer[theirs] for ours, theirs in sizes.items() if trainer.get(theirs) is not None}
    return {key: int(value) if is_count(value) else value for key, value in told.items()}


def files_of(folder: Path) -> list[Path]:
    """What an SAE is told apart by."""
    return [folder / WEIGHTS, folder / CONFIG]


def _read_trainer(folder: Path) -> dict[str, Any]:
    """How it was trained, as `config.json` tells, with what is read of it in the form that it should have."""
    trainer = read_config_file(folder, CONFIG).get("trainer")
    if not isinstance(trainer, dict):
        raise InputError("sae", folder, f"a trainer in {CONFIG}; this is {short(trainer)}")
    kind = trainer.get("dict_class")
    if kind not in READABLE:
        why = _UNREADABLE.get(kind) if isinstance(kind, str) else None
        this = f"{short(kind)}, {why}" if why else short(kind)
        raise InputError("sae", folder, f"a dict_class of {', '.join(READABLE)} in {CONFIG}; this is {this}")
    for key in ("activation_dim", "dict_size"):
        if not is_count(trainer.get(key)):
            raise InputError("sae", folder, f"a whole number above 0 as {key}; this is {short(trainer.get(key))}")
    if trainer.get("k") is not None and not is_count(trainer["k"]):
        raise InputError("sae", folder, f"a whole number above 0 as k; this is {short(trainer['k'])}")
    return trainer


def _metadata(folder: Path) -> dict[str, Any]:
    trainer, told_buffer = _read_trainer(folder), read_config_file(folder, CONFIG).get("buffer")
    for key in ("lm_name", "submodule_name"):
        if not isinstance(trainer.get(key), str | None):
            raise InputError("sae", folder, f"a text as {key} in {CONFIG}; this is {short(trainer[key])}")
    buffer: dict[str, Any] = told_buffer if isinstance(told_buffer, dict) else {}
    told = {
        "model_name": trainer.get("lm_name"),
        "hook_name": _hook_name(trainer, buffer),
        "context_size": buffer.get("ctx_len"),
        "training_architecture": trainer.get("trainer_class"),
    }
    return {key: value for key, value in told.items() if value is not None}


def _hook_name(trainer: Mapping[str, Any], buffer: Mapping[str, Any]) -> str | None:
    """None where the submodule is another than a block, or its input was read."""
    layer, submodule = trainer.get("layer"), trainer.get("submodule_name")
    if buffer.get("io", "out") != "out":
        return None
    if submodule is not None:
        named = _RESIDUAL.fullmatch(submodule)
        return None if named is None else f"blocks.{int(named[1])}.hook_resid_post"
    return f"blocks.{layer}.hook_resid_post" if layer == 0 or is_count(layer) else None


def _check_shapes(folder: Path, kind: _Class, weights: Weights, D: int, F: int) -> None:
    for name, letters in kind.shapes.items():
        shape = tuple({"D": D, "F": F}[letter] for letter in letters)
        found = weights.get(name)
        if found is None or tuple(found.shape) != shape:
            has = "none" if found is None else list(found.shape)
            raise InputError("sae", folder, f"{name} of {short(list(shape))} in {WEIGHTS}; it has {has}")
        if not found.is_floating_point():
            raise InputError("sae", folder, f"numbers with a fraction as {name} in {WEIGHTS}; they are {found.dtype}")
    for name in weights.keys() - kind.shapes.keys() - set(kind.may_have):
        valid = f"nothing but {', '.join(kind.shapes)} in {WEIGHTS}; it has {short(name)}, too"
        raise InputError("sae", folder, valid)


def _find_k(folder: Path, weights: Weights, trainer: Mapping[str, Any]) -> int:
    """The file's own, where it has one; it is what the library goes by."""
    stored = weights.get("k")
    k: Any = trainer.get("k") if stored is None or stored.numel() != 1 else stored.item()
    if not is_count(k) or k > trainer["dict_size"]:
        raise InputError("sae", folder, f"k of 1 to the {trainer['dict_size']} latents; this is {short(k)}")
    if trainer.get("k") not in (None, k):
        raise InputError("sae", folder, f"k={k} in {CONFIG}, as in {WEIGHTS}; this is {short(trainer['k'])}")
    return int(k)
