"""TopK SAE (Gao et al. 2024, arXiv 2406.04093): the k largest latents of each activation.

Axes: B activations, F `d_sae`.
"""

import torch
from torch import Tensor

from masked_sae.saes.selection import largest
from masked_sae.saes.topk_family import TopKFamilySAE


class TopKSAE(TopKFamilySAE):
    def competitors(self, pre_BF: Tensor) -> tuple[Tensor, int]:
        return pre_BF, self.k

    def encode(self, x_BD: Tensor) -> Tensor:
        pre_BF = self.pre_activations(x_BD)
        places_A, _ = largest(pre_BF, self.k)
        active_BF = torch.zeros_like(pre_BF, dtype=torch.bool)
        active_BF.view(-1)[places_A] = True
        return torch.where(active_BF, pre_BF.clamp_min(0), 0.0)

    def thresholds(self) -> None:
        return None
