"""ReLU SAE (Bricken et al. 2023, "Towards Monosemanticity"): the L1 norm of the latents is penalised.

Axes: F `d_sae`.
"""

import torch
from torch import Tensor

from masked_sae.saes.penalized import PenalizedSAE
from masked_sae.saes.support import Places


class ReLUSAE(PenalizedSAE):
    """`f = relu((x - b_dec) W_enc + b_enc)`; the penalty is `sum f`, with decoder rows of unit norm."""

    def activate(self, pre: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        latents = torch.relu(pre)
        return latents, latents

    def thresholds(self) -> Tensor:
        return torch.zeros_like(self.b_enc_F)
