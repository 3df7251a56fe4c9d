"""What every mask is: settings, and what it does to text, inputs and latents.

Axes: N sequences, T positions, B activations, D `d_in`, F `d_sae`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from masked_sae import checks
from masked_sae.settings import OwnModule, setting


class Mask:
    """A mask at work. Each method leaves things as they are unless the mask is of that kind.

    What is drawn follows from the seed and a sequence's place or the step alone, so there is no state to keep.
    """

    @property
    def acts_on_text(self) -> bool:
        """Whether the batches of activations depend on it: it is drawn by `data.seed` then, else by `seed`."""
        of_text = ("wants_clean_target", "mask_tokens", "counted")
        return any(getattr(type(self), name) is not getattr(Mask, name) for name in of_text)

    @property
    def wants_clean_target(self) -> bool:
        """Whether the SAE has to give back what the LM computes on the text as it was before this mask."""
        return False

    def mask_tokens(
        self, tokens_NT: Tensor, maskable_NT: Tensor, ordinals: Sequence[int], progress: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Tokens as the LM reads them, and where they were changed (N, T), bool.

        Args:
            tokens_NT: int64 token ids.
            maskable_NT: bool; special positions are False and stay untouched.
            ordinals: each sequence's place in the run's order; it alone, with the seed, draws the mask.
            progress: each sequence's share of the training done.
        """
        return tokens_NT, torch.zeros_like(maskable_NT)

    def counted(self, masked_NT: Tensor) -> Tensor:
        """Which positions the SAE is trained on, by where this mask changed tokens."""
        return torch.ones_like(masked_NT)

    def mask_inputs(self, x_BD: Tensor, step: int) -> Tensor:
        """Activations as the encoder reads them."""
        return x_BD

    def mask_latents(self, pre_BF: Tensor, step: int) -> Tensor:
        """Pre-activations, -inf for latents that this step may not use."""
        return pre_BF


@dataclass(kw_only=True)
class MaskSettings(OwnModule):
    """Attributes:
    rate: share of what the mask hides; at 0 it is off, unless the mask says otherwise.
    """

    rate: float = setting(0.0, unit="share")

    def check(self, key: str) -> None:
        """Refuses what cannot work.

        Args:
            key: of these settings, such as `mask.token`.
        """
        checks.share(f"{key}.rate", self.rate)

    @property
    def is_off(self) -> bool:
        return self.rate == 0

    def effective(self) -> dict[str, Any]:
        """The settings that make a difference as they are set; none of a mask that is off."""
        if self.is_off:
            return {}
        return {name: value for name, value in asdict(self).items() if name != "_module_"}

    def kept_share(self) -> float:
        """The least expected share of a text's positions that the SAE is trained on."""
        return 1.0

    def make(self, name: str, tokenizer: Any, seed: int) -> Mask:
        """The mask of a run.

        Args:
            name: under `mask` in the configuration; another mask of the same kind has another, and draws otherwise.

        Raises:
            InputError: the tokenizer lacks what the mask needs.
        """
        raise NotImplementedError


@dataclass(kw_only=True)
class RecordedMask(MaskSettings):
    """A user's own mask as a run's folder tells of it.

    Attributes:
        kept: what its `kept_share` was.
    """

    kept: float = 1.0

    def kept_share(self) -> float:
        return self.kept
