"""Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014): one encoder says which latents are active, another how much.

Axes: B activations, D `d_in`, F `d_sae`.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from masked_sae.saes.latent_support import Support
from masked_sae.saes.penalty_family import PenalizedSAE, PenalizedSettings
from masked_sae.saes.sae import mean_square
from masked_sae.saes.sharding import summed
from masked_sae.saes.step_cost import StepCost


@dataclass(kw_only=True)
class Settings(PenalizedSettings):
    def step_cost(self, on_cuda: bool) -> StepCost:
        """The gate's own reconstruction besides, and the gradient of it."""
        cost = super().step_cost(on_cuda)
        more = 2
        if cost.sums:
            return replace(cost, sums=cost.sums + more)
        return replace(cost, products=cost.products + more)

    def make(self, d_in: int, generator: torch.Generator) -> "GatedSAE":
        return GatedSAE(d_in, self.d_sae, self.sparsity_coefficient, **self.shared(generator))


class GatedSAE(PenalizedSAE):
    """`f = H(g) relu(exp(r) p + b_mag)` of `p = (x - b_dec) W_enc` and the gate `g = p + b_enc` (section 3.2.1).

    The penalty is `sum relu(g)`. So that the gate learns to detect, what it finds has to reconstruct as well, by a
    decoder that does not learn from it: the auxiliary loss, of weight 1 (section 3.2.2).
    """

    r_mag_F: nn.Parameter
    b_mag_F: nn.Parameter

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self.r_mag_F = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag_F = nn.Parameter(torch.zeros(self.d_sae))

    def activate(self, pre: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        gate = torch.relu(pre)
        gain, b_enc, b_mag = map(support.of_latents, (self.r_mag_F.exp(), self.b_enc_F, self.b_mag_F))
        magnitude = torch.relu((gate - b_enc) * gain + b_mag)  # where the gate is closed it counts for nothing
        return torch.where(gate > 0, magnitude, 0.0), gate

    def auxiliary_loss(self, penalized: Tensor, support: Support, target_BD: Tensor) -> Tensor:
        by_gate_BD = summed(support.sums(penalized, self.W_dec_FD.detach()), self.shards) + self.b_dec_D.detach()
        return mean_square(target_BD - by_gate_BD)

    def inference_encoder(self) -> tuple[Tensor, Tensor]:
        """The magnitude's. It grows with the gate, so a threshold on it says what the gate does."""
        return self.W_enc_FD * self.r_mag_F.exp()[:, None], self.b_mag_F

    @torch.no_grad()
    def set_thresholds(self, threshold_F: Tensor | None) -> None:
        """With `r = 0` gate and magnitude differ by their biases: it opens where the magnitude is at the threshold."""
        if threshold_F is None:
            raise ValueError("a threshold for each latent")
        self.r_mag_F.zero_()
        self.b_mag_F.copy_(self.b_enc_F)
        self.b_enc_F.sub_(threshold_F)

    def thresholds(self) -> Tensor:
        return (self.b_mag_F - self.r_mag_F.exp() * self.b_enc_F).clamp_min(0)
