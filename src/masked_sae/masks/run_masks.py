"""The masks of a run, at work together.

Axes: N sequences, T positions, B activations, D `d_in`, F `d_sae`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masked_sae.masks.mask import Mask, MaskSettings, RecordedMask
from masked_sae.settings import find_ours, find_own, makes, names, recorded

PACKAGE = "masked_sae.masks"
_OF_THE_PAPER = "token"
PAPER_RATE = f"mask.{_OF_THE_PAPER}.rate"


class MaskedText(NamedTuple):
    """Sequences as the LM reads them.

    Attributes:
        tokens_NT: int64.
        masked_NT: where any mask changed a token, bool.
        counted_NT: which positions the masks let the SAE be trained on, bool.
    """

    tokens_NT: Tensor
    masked_NT: Tensor
    counted_NT: Tensor


@dataclass(frozen=True)
class Masks:
    """Those that hide anything, by name; they work one after another."""

    named: Mapping[str, Mask]

    @property
    def on_text(self) -> "Masks":
        """Those that the batches of activations depend on."""
        return Masks({name: mask for name, mask in self.named.items() if mask.acts_on_text})

    @property
    def wants_clean_target(self) -> bool:
        return any(mask.wants_clean_target for mask in self.named.values())

    @property
    def hide_inputs(self) -> bool:
        return any(type(mask).mask_inputs is not Mask.mask_inputs for mask in self.named.values())

    @property
    def hide_latents(self) -> bool:
        return any(type(mask).mask_latents is not Mask.mask_latents for mask in self.named.values())

    def mask_tokens(
        self, tokens_NT: Tensor, maskable_NT: Tensor, ordinals: Sequence[int], progress: Sequence[float]
    ) -> MaskedText:
        """See `Mask.mask_tokens`."""
        masked_NT, counted_NT = torch.zeros_like(maskable_NT), torch.ones_like(maskable_NT)
        for mask in self.named.values():
            tokens_NT, changed_NT = mask.mask_tokens(tokens_NT, maskable_NT, ordinals, progress)
            masked_NT, counted_NT = masked_NT | changed_NT, counted_NT & mask.counted(changed_NT)
        return MaskedText(tokens_NT, masked_NT, counted_NT)

    def mask_inputs(self, x_BD: Tensor, step: int) -> Tensor:
        for mask in self.named.values():
            x_BD = mask.mask_inputs(x_BD, step)
        return x_BD

    def mask_latents(self, pre_BF: Tensor, step: int) -> Tensor:
        for mask in self.named.values():
            pre_BF = mask.mask_latents(pre_BF, step)
        return pre_BF


def make_masks(settings: Mapping[str, MaskSettings], tokenizer: Any, seed: int, data_seed: int | None = None) -> Masks:
    """The masks of a run; those that are off are left out.

    Args:
        seed: draws what is hidden of inputs and latents.
        data_seed: draws what is hidden of the text; None: the same.

    Raises:
        InputError: the tokenizer lacks what a mask needs.
    """
    of_text = seed if data_seed is None else data_seed

    def made(name: str, one: MaskSettings) -> Mask:
        mask = one.make(name, tokenizer, of_text)
        return mask if mask.acts_on_text or of_text == seed else one.make(name, tokenizer, seed)

    return Masks({name: made(name, one) for name, one in settings.items() if not one.is_off})


def kept_share(settings: Mapping[str, MaskSettings]) -> float:
    """The least expected share of a text's positions that the masks let the SAE be trained on."""
    return math.prod((one.kept_share() for one in settings.values() if not one.is_off), start=1.0)


def paper_rate(settings: Mapping[str, MaskSettings]) -> float:
    """The rate of the paper's mask, which runs are called by that no sweep names."""
    return settings[_OF_THE_PAPER].rate if _OF_THE_PAPER in settings else 0.0


def find_mask(name: str, module: str | None) -> type[MaskSettings]:
    """The settings of a mask, by its name or a user's module.

    Raises:
        InputError: there is no such mask.
    """
    if module is None:
        return find_ours(PACKAGE, "Settings", "mask", name)
    return find_own(module, "Settings", f"mask.{name}._module_", lambda found: makes(found, MaskSettings))


def effective_of_recorded(name: str, values: Any) -> dict[str, Any]:
    """The settings that make a difference, of a mask as a run's folder has it. Of one that is not ours nobody knows
    when it is off, so all of them may.
    """
    if not isinstance(values, Mapping):
        return {"value": values}
    mask = recorded_mask(name, values)
    if isinstance(mask, RecordedMask):
        return {key: value for key, value in values.items() if key != "_module_"}
    return mask.effective()


def recorded_mask(name: str, values: Mapping[str, Any], kept: float | None = None) -> MaskSettings:
    """The settings of a mask as a run's folder has them; of a user's own no more is known than these, and `kept`, its
    `kept_share`.
    """
    if name in names(PACKAGE, "Settings") and values.get("_module_") is None:
        return recorded(find_mask(name, None), values)
    own: RecordedMask = recorded(RecordedMask, {key: value for key, value in values.items() if key != "kept"})
    return own if kept is None else replace(own, kept=kept)
