"""The weights of an LM as they are read: whole, of the shapes that its configuration says, and finite."""

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from masked_sae.errors import InputError
from masked_sae.lm_files import INDEX, WEIGHTS, shortened, weight_files

_POOLER = re.compile(r"(^|\.)pooler\.")  # of a whole text, which no hook point reads
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Misfit:
    """What of a checkpoint's weights and of its architecture did not meet, by name.

    Attributes:
        misshapen: with the shape in the file and the one that the configuration asks for.
    """

    missing: frozenset[str]
    unexpected: frozenset[str]
    misshapen: frozenset[tuple[str, torch.Size, torch.Size]]


def check_sizes(name: str, folder: Path, config: Any) -> None:
    """Compares a configuration with the heads of the weight files, before a model of its sizes takes the memory.

    Args:
        config: of the library.

    Raises:
        InputError: a file is damaged, or a size is beyond all weights.
    """
    shapes = [shape for file in weight_files(name, folder) for shape in _shapes(name, folder / file)]
    largest = max((side for shape in shapes for side in shape), default=0)
    for key in _SIZES:
        size = None
        with suppress(Exception):  # some configurations refuse to tell a size that differs between layers
            size = getattr(config.get_text_config(), key, None)
        most = len(shapes) if key == "num_hidden_layers" else largest
        if isinstance(size, int) and not 1 <= size <= most:
            valid = f"a {key} in config.json from 1 to {most}, as its weights are; it is {size}"
            raise InputError("lm.name", name, valid)


def _shapes(name: str, path: Path) -> list[list[int]]:
    try:
        with safe_open(path, "pt") as file:
            return [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 - no mapping
    except Exception as error:  # of its own kind, OSError, or a panic's
        raise InputError("lm.name", name, f"a whole {path.name} ({shortened(error)})") from error


class WeightReader:
    """Stands where `TransformerBridge` takes a class of models: reads as that class does, and keeps what did not fit.

    No pickle is read, and no code that a checkpoint brings runs.
    """

    def __init__(self, model_class: Any, name: str) -> None:
        self._model_class = model_class
        self._name = name
        self.missing_head: list[str] = []

    def from_pretrained(self, folder: str, **settings: Any) -> nn.Module:
        """Called by the bridge.

        Raises:
            InputError: a weight is missing, left over, of another shape, NaN or infinite.
        """
        forced = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # the second: told, not refused unnamed
        safe = {"use_safetensors": True, "trust_remote_code": False}
        model, found = self._model_class.from_pretrained(folder, **settings, **forced, **safe)
        misfit = Misfit(*(frozenset(found[f"{what}_keys"]) for what in ("missing", "unexpected", "mismatched")))
        self.missing_head = refuse_misfit(self._name, Path(folder), model, misfit)
        refuse_non_finite_weights(self._name, model, self.missing_head)
        _spoil(model, self.missing_head)
        return model


def refuse_misfit(name: str, folder: Path, model: nn.Module, misfit: Misfit) -> list[str]:
    """What of the model's output layer is missing; a weight that is missing elsewhere is refused.

    Raises:
        InputError: names the weight and the file.
    """
    file = WEIGHTS if (folder / WEIGHTS).exists() else INDEX
    if misfit.misshapen:
        key, there, wanted = min(misfit.misshapen)
        shapes = f"{tuple(wanted)}, as config.json says; in {file} it is {tuple(there)}"
        raise InputError("lm.name", name, f"a checkpoint with {key} of shape {shapes}{_more(misfit.misshapen)}")
    body = sorted(key for key in misfit.missing if not _is_of_head(model, key) and not _POOLER.search(key))
    if body:
        raise InputError("lm.name", name, f"a checkpoint with all weights: {file} lacks {body[0]}{_more(body)}")
    known = {_NUMBER.sub("*", key) for key in _without_prefix(model, model.state_dict())}
    layers = sorted(key for key in misfit.unexpected if _is_of_a_layer(model, key, known))
    if layers:
        what = f"{file} has {layers[0]}{_more(layers)}, of a layer beyond those that config.json says"
        raise InputError("lm.name", name, f"a configuration of the whole checkpoint: {what}")
    return sorted(key for key in misfit.missing if _is_of_head(model, key))


def refuse_non_finite_weights(name: str, model: nn.Module, apart_from: Collection[str] = ()) -> None:
    """Anywhere in the model, behind the hook point too.

    Raises:
        InputError: names the weight.
    """
    weights = {key: weight for key, weight in model.named_parameters() if key not in apart_from and weight.numel()}
    if not weights:
        raise InputError("lm.name", name, "a checkpoint with weights")
    with torch.inference_mode():
        by_device: dict[torch.device, list[Tensor]] = {}
        for weight in weights.values():
            by_device.setdefault(weight.device, []).append(weight.sum(dtype=torch.float32))
        if all(bool(torch.isfinite(torch.stack(sums)).all()) for sums in by_device.values()):
            return
        for key, weight in weights.items():
            bad = int((~torch.isfinite(weight)).sum())
            if bad:
                raise InputError("lm.name", name, f"finite weights: {bad} of {weight.numel()} in {key} are NaN or inf")


def _spoil(model: nn.Module, names: Iterable[str]) -> None:
    """Has weights that no checkpoint gave, random ones, be NaN: nothing can be measured with them unnoticed."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in names:
            if name in parameters and parameters[name].is_floating_point():
                parameters[name].fill_(torch.nan)


def _is_of_head(model: Any, key: str) -> bool:
    prefix = model.base_model_prefix
    if prefix and hasattr(model, prefix):
        return not key.startswith(prefix + ".")
    head = model.get_output_embeddings()
    return any(module is head and key.startswith(where + ".") for where, module in model.named_modules() if where)


def _is_of_a_layer(model: Any, key: str, known: Collection[str]) -> bool:
    """Whether a weight that the model lacks is one of those that each of its layers has."""
    (bare,) = _without_prefix(model, [key])
    return _NUMBER.search(bare) is not None and _NUMBER.sub("*", bare) in known


def _without_prefix(model: Any, keys: Iterable[str]) -> list[str]:
    """Names as they are in the body of the model: a checkpoint of it alone has no prefix."""
    return [key.removeprefix(f"{model.base_model_prefix}.") for key in keys]


def _more(found: Collection[object]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
