"""ReLU SAE (Bricken et al. 2023, "Towards Monosemanticity"): the L1 norm of the latents is penalised.

Axes: F `d_sae`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from masked_sae.saes.latent_support import Support
from masked_sae.saes.penalty_family import PenalizedSAE, PenalizedSettings


@dataclass(kw_only=True)
class Settings(PenalizedSettings):
    def make(self, d_in: int, generator: torch.Generator) -> "ReLUSAE":
        return ReLUSAE(d_in, self.d_sae, self.sparsity_coefficient, **self.shared(generator))


class ReLUSAE(PenalizedSAE):
    """`f = relu((x - b_dec) W_enc + b_enc)`; the penalty is `sum f`, with decoder rows of unit norm."""

    def activate(self, pre: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        latents = torch.relu(pre)
        return latents, latents

    def thresholds(self) -> Tensor:
        return torch.zeros_like(self.b_enc_F)
