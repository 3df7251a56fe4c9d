"""BatchTopK SAE (Bussmann et al. 2024, arXiv 2412.06410): the k·B largest latents of a batch of B.

Axes: B activations, D `d_in`, F `d_sae`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masked_sae.errors import InputError
from masked_sae.saes.largest_of_all import largest_of_all
from masked_sae.saes.topk_family import TopKFamilySAE, TopKFamilySettings


@dataclass(kw_only=True)
class BatchTopKSettings(TopKFamilySettings):
    """Attributes:
    threshold_decay: of the running mean from which the inference threshold is learned.
    """

    threshold_decay: float

    def check(self) -> None:
        super().check()
        if not 0 <= self.threshold_decay < 1:
            raise InputError("sae.threshold_decay", self.threshold_decay, "0 up to but not including 1")

    def shared(self, generator: torch.Generator) -> dict[str, Any]:
        return super().shared(generator) | {"threshold_decay": self.threshold_decay}


@dataclass(kw_only=True)
class Settings(BatchTopKSettings):
    def make(self, d_in: int, generator: torch.Generator) -> "BatchTopKSAE":
        return BatchTopKSAE(d_in, self.d_sae, self.k, **self.shared(generator))


class BatchTopKSAE(TopKFamilySAE):
    """Trains with the batch's largest latents; encodes with a threshold learned meanwhile.

    Args:
        threshold_decay: of the running mean of the batches' smallest active latent.
        others: as for `TopKFamilySAE`.
    """

    threshold_mean: Tensor
    threshold_weight: Tensor

    def __init__(self, *args: Any, threshold_decay: float = 0.99, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.threshold_decay = threshold_decay
        self.register_buffer("threshold_mean", torch.zeros(()))
        self.register_buffer("threshold_weight", torch.zeros(()))

    @property
    def threshold(self) -> Tensor:
        """Latents above it are active; 0 before any training. Scalar.

        An exponential mean of the smallest active latent (2412.06410, equation 7), free of its start at 0: divided by
        the sum of its weights.
        """
        return self.threshold_mean / self.threshold_weight.clamp_min(torch.finfo(torch.float32).tiny)

    def thresholds(self) -> Tensor:
        return self.threshold.expand(self.d_sae)

    def competitors(self, pre_BF: Tensor) -> tuple[Tensor, int]:
        return pre_BF.reshape(1, -1), self.k * len(pre_BF)

    def keep(self, pre_BF: Tensor) -> Tensor:
        if self.ranks.is_alone:
            return super().keep(pre_BF)
        kept_BF = torch.zeros_like(pre_BF, dtype=torch.bool)
        places_A, values_A = self.choose(pre_BF)
        kept_BF.view(-1)[places_A] = values_A > 0
        return torch.where(kept_BF, pre_BF, 0.0)

    def choose(self, pre_BF: Tensor) -> tuple[Tensor, Tensor]:
        row_1N, k = self.competitors(pre_BF)
        ranks = self.shards if self.ranks.is_alone else self.ranks
        return largest_of_all(row_1N, k * self.ranks.count, ranks, static=self.has_static_shapes)

    def encode(self, x_BD: Tensor) -> Tensor:
        pre_BF = self.pre_activations(x_BD)
        return pre_BF * ((pre_BF > self.threshold) & (pre_BF > 0))

    @torch.no_grad()
    def learn_from(self, values: Tensor) -> None:
        smallest = torch.where(values > 0, values, torch.inf).amin() if values.numel() else values.new_tensor(torch.inf)
        smallest = self.shards.least(self.ranks.least(smallest))
        seen = smallest.isfinite()  # a batch without any active latent teaches nothing
        weight = (1 - self.threshold_decay) * seen
        # not in place: what is compiled loses what is written into a scalar of float64
        self.threshold_mean = self.threshold_mean.lerp(torch.where(seen, smallest, 0.0), weight)
        self.threshold_weight = self.threshold_weight.lerp(torch.ones_like(self.threshold_weight), weight)
