"""TopK SAE (Gao et al. 2024, arXiv 2406.04093): the k largest latents of each activation.

Axes: B activations, F `d_sae`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from masked_sae.saes.fast_topk import largest
from masked_sae.saes.topk_family import TopKFamilySAE, TopKFamilySettings


@dataclass(kw_only=True)
class Settings(TopKFamilySettings):
    def make(self, d_in: int, generator: torch.Generator) -> "TopKSAE":
        return TopKSAE(d_in, self.d_sae, self.k, **self.shared(generator))


class TopKSAE(TopKFamilySAE):
    def competitors(self, pre_BF: Tensor) -> tuple[Tensor, int]:
        return pre_BF, self.k

    def encode(self, x_BD: Tensor) -> Tensor:
        pre_BF = self.pre_activations(x_BD)
        places_A, _ = largest(pre_BF, self.k, static=self.has_static_shapes)
        active_BF = torch.zeros_like(pre_BF, dtype=torch.bool)
        active_BF.view(-1)[places_A] = True
        return torch.where(active_BF, pre_BF.clamp_min(0), 0.0)

    def thresholds(self) -> None:
        return None

    @property
    def inference_k(self) -> int:
        return self.k
