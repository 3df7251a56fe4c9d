"""Hides dimensions of what the encoder reads, as a denoising autoencoder's: a variant to compare the token mask with.

Masking for sparse coding (Chidambaram et al. 2023, arXiv 2302.12715) hides them too. Its loss counts the hidden
dimensions alone; here it counts all of them.

Axes: B activations, D `d_in`.
"""

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
    rate: float = setting(0.0, label="input mask rate", unit="share of input dimensions")

    def check(self, key: str) -> None:
        checks.share_below_1(f"{key}.rate", self.rate)

    def make(self, name: str, tokenizer: Any, seed: int) -> "InputMask":
        return InputMask(name, self.rate, seed)


@dataclass(frozen=True)
class InputMask(Mask):
    name: str
    rate: float
    seed: int

    def mask_inputs(self, x_BD: Tensor, step: int) -> Tensor:
        return hide_inputs(x_BD, self.rate, torch_generator(self.seed, f"{self.name} mask", step, x_BD.device))


def hide_inputs(x_BD: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Input dimensions hidden with probability `rate` become 0; the others grow by 1/(1-rate), so the mean stays."""
    kept_BD = torch.rand(x_BD.shape, generator=generator, device=x_BD.device) >= rate
    return x_BD * kept_BD / (1 - rate if rate < 1 else 1)
