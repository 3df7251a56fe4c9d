"""Hides latents from the SAE's training step: a variant to compare the token mask with.

Axes: B activations, F `d_sae`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masked_sae import checks
from masked_sae.masks.mask import Mask, MaskSettings
from masked_sae.randomness import torch_generator
from masked_sae.settings import setting


@dataclass(kw_only=True)
class Settings(MaskSettings):
    rate: float = setting(0.0, label="latent mask rate", unit="share of latents")

    def check(self, key: str) -> None:
        checks.share_below_1(f"{key}.rate", self.rate)

    def make(self, name: str, tokenizer: Any, seed: int) -> "LatentMask":
        return LatentMask(name, self.rate, seed)


@dataclass(frozen=True)
class LatentMask(Mask):
    name: str
    rate: float
    seed: int

    def mask_latents(self, pre_BF: Tensor, step: int) -> Tensor:
        return hide_latents(pre_BF, self.rate, torch_generator(self.seed, f"{self.name} mask", step, pre_BF.device))


def hide_latents(pre_BF: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Sets pre-activations to -inf, never chosen, with probability `rate`: each latent for each activation."""
    hidden_BF = torch.rand(pre_BF.shape, generator=generator, device=pre_BF.device) < rate
    return pre_BF.masked_fill(hidden_BF, -math.inf)
