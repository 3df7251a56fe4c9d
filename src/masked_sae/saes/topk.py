"""TopK SAE (Gao et al. 2024, arXiv 2406.04093): the k largest latents of each activation."""

from torch import Tensor

from masked_sae.saes.sae import SAE
from masked_sae.saes.selection import topk_per_activation


class TopKSAE(SAE):
    def select(self, pre_BF: Tensor) -> Tensor:
        return topk_per_activation(pre_BF, self.k)

    def encode(self, x_BD: Tensor) -> Tensor:
        return topk_per_activation(self.pre_activations(x_BD), self.k)
