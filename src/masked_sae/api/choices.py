"""Settings as `conf/` has them, changed by name: what a command line sets, for programs."""

import copy
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from masked_sae.bundled import CONF
from masked_sae.config import OPTIMIZERS, OptimSettings, RunConfig, check, typed_config
from masked_sae.errors import InputError
from masked_sae.masks.mask import Mask, MaskSettings
from masked_sae.masks.run_masks import Masks, find_mask
from masked_sae.saes.settings import SAESettings


def sae_settings(choice: str, **changes: Any) -> SAESettings:
    """The settings of an SAE as `conf/sae/` has them, with these changes.

    Args:
        choice: as after `sae=` on the command line: `batch_topk`, `matryoshka`, `ortsae`, ….
        changes: as after `sae.`: `d_sae=4096, k=32`.

    Raises:
        InputError: there is no such choice or setting, or the value cannot be used.
    """
    choices = sorted(path.stem for path in (CONF / "sae").glob("*.yaml") if not path.stem.startswith("base"))
    if choice not in choices:
        raise InputError("sae", choice, f"one of {', '.join(choices)}")
    known = [one.name for one in fields(_changed(f"sae={choice}", {}).sae)]
    for name, value in changes.items():
        if name not in known:
            raise InputError(f"sae.{name}", value, f"a setting of {choice}: {', '.join(known)}")
    return _changed(f"sae={choice}", {f"sae.{name}": value for name, value in changes.items()}).sae


def optim_settings(**changes: Any) -> OptimSettings:
    """The optimizer's settings as `conf/optim/` has them, with these changes: `lr=3e-4`, or `name="adafactor"`, which
    has a learning rate of its own.

    Raises:
        InputError: there is no such setting, or the value cannot be used.
    """
    for name, value in changes.items():
        known = [one.name for one in fields(OptimSettings)]
        if name not in known:
            raise InputError(f"optim.{name}", value, f"a setting of the optimizer: {', '.join(known)}")
    choice = changes["name"] if changes.get("name") in OPTIMIZERS else "adam"  # another is refused below
    return _changed(f"optim={choice}", {f"optim.{name}": value for name, value in changes.items()}).optim


def _changed(choice: str, changes: Mapping[str, Any]) -> RunConfig:
    config = copy.deepcopy(_composed(choice))
    for key, value in changes.items():
        OmegaConf.update(config, key, value, force_add=True)
    typed = typed_config(config)
    check(typed)
    return typed


@cache
def _composed(choice: str) -> DictConfig:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base=None):  # gives Hydra's state back afterwards
        return compose("train", [choice])


def find_masks(masks: Mapping[str, float | MaskSettings], seed: int) -> Masks:
    """Of activations; a number is the rate of ours of that name.

    Raises:
        InputError: there is no such mask, its rate cannot be used, or it masks text.
    """
    found: dict[str, Mask] = {}
    for name, given in masks.items():
        settings = given if isinstance(given, MaskSettings) else find_mask(name, None)(rate=given)
        settings.check(f"mask.{name}")
        if not settings.is_off:
            found[name] = settings.make(name, _NoTokenizer(name), seed)
            if found[name].acts_on_text:
                raise _needs_text(name)
    return Masks(found)


class _NoTokenizer:
    """Stands where a mask of text would look for its tokens."""

    def __init__(self, mask: str) -> None:
        self._mask = mask

    def __getattr__(self, name: str) -> Any:
        raise _needs_text(self._mask)

    def __len__(self) -> int:
        raise _needs_text(self._mask)


def _needs_text(mask: str) -> InputError:
    return InputError("mask", mask, "masks of inputs or latents: activations have no tokens to mask (src.train has)")
