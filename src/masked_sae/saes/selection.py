"""Which latents are active: the k largest of each activation, or of the whole batch.

Axes: B activations, F `d_sae`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def topk_per_activation(pre_BF: Tensor, k: int) -> Tensor:
    """Keeps each row's `k` largest pre-activations where they are positive; all else is 0. (B, F)

    TopK of Gao et al. 2024 (arXiv 2406.04093, equation 2), with a ReLU.
    """
    values_BK, latents_BK = F.relu(pre_BF).topk(k, dim=1, sorted=False)
    return torch.zeros_like(pre_BF).scatter(1, latents_BK, values_BK)


def topk_of_batch(pre_BF: Tensor, k: int) -> Tensor:
    """Keeps the `k * B` largest pre-activations of the batch where they are positive; all else is 0. (B, F)

    BatchTopK of Bussmann et al. 2024 (arXiv 2412.06410, equation 5).
    """
    flat = F.relu(pre_BF).flatten()
    values, places = flat.topk(k * len(pre_BF), sorted=False)
    return torch.zeros_like(flat).scatter(0, places, values).view_as(pre_BF)
