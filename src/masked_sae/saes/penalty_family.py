"""What the SAEs share whose sparsity is paid for: a loss with a penalty on the latents.

Axes: B activations, D `d_in`, F `d_sae`.

The papers' losses are sums over an activation's dimensions, `||x - x_hat||^2 + coefficient * penalty`, of activations
whose mean squared norm is `d_in`. All of it is divided by `d_in` here, as the other architectures' losses are; the
coefficient is the papers'.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masked_sae import checks
from masked_sae.saes.latent_support import FullSupport, Support, support_above
from masked_sae.saes.sae import SAE, HideLatents, TrainingOutput, mean_square
from masked_sae.saes.settings import SAESettings
from masked_sae.saes.sharding import read_by_all, summed
from masked_sae.saes.step_cost import DENSE_PRODUCTS, SPARSE_SUMS, StepCost
from masked_sae.settings import neutral, setting

_TENSORS = 5  # of (B, F), that a dense step has at one time
MOST = 0.15  # of the latents that may matter to a sparse step; with more of them the dense one is faster


@dataclass(kw_only=True)
class PenalizedSettings(SAESettings):
    """Attributes:
    sparsity_coefficient: of the penalty on latents; more leaves fewer active.
    sparsity_warmup_steps: in which the penalty grows to its weight.
    encoder_norm_init: of the encoder's rows before training, which point where the decoder's do.
    """

    sparsity_coefficient: float = setting(sparsity=True)
    sparsity_warmup_steps: int = setting(unit="steps")
    encoder_norm_init: float = neutral(1.0, label="initial norm of encoder rows")

    @property
    def penalty_warmup_steps(self) -> int:
        return self.sparsity_warmup_steps

    def step_cost(self, on_cuda: bool) -> StepCost:
        """On a CPU with dense products in memory, as it begins, and without in arithmetic, as it goes on."""
        if self.reference or self.shapes == "static" or (on_cuda and self.shapes == "auto"):
            return StepCost(DENSE_PRODUCTS, 0, 0, latents=_TENSORS, activations=6)
        return StepCost(1, SPARSE_SUMS, None, latents=_TENSORS, activations=6)

    def check(self) -> None:
        super().check()
        checks.coefficient("sae.sparsity_coefficient", self.sparsity_coefficient)
        checks.count("sae.sparsity_warmup_steps", self.sparsity_warmup_steps, least=0)
        checks.above("sae.encoder_norm_init", self.encoder_norm_init, 0)
        checks.coefficient("sae.encoder_norm_init", self.encoder_norm_init)

    def check_shards(self) -> None:
        """What a latent costs is its own affair."""

    def shared(self, generator: torch.Generator) -> dict[str, Any]:
        return super().shared(generator) | {"encoder_norm_init": self.encoder_norm_init}


class PenalizedSAE(SAE):
    """Trains by dense products at first, while many latents are active, and at their places alone once they are few;
    with static shapes always by dense products.

    At first half of the latents are active. With encoder rows of the decoder's norm they give back `d_sae / 2 d_in`
    times an activation, and the price drives down more than that: what is left of training is spent on coming back.
    Where nothing but the price makes latents silent, encoder rows begin small (Conerly et al. 2024, "Update on how we
    train SAEs", begin with small rows of both).

    Args:
        sparsity_coefficient: weight of the sparsity loss.
        encoder_norm_init: of the encoder's rows.
        others: as for `SAE`.
    """

    def __init__(
        self, d_in: int, d_sae: int, sparsity_coefficient: float, *, encoder_norm_init: float = 1.0, **others: Any
    ) -> None:
        super().__init__(d_in, d_sae, **others)
        self.sparsity_coefficient = sparsity_coefficient
        with torch.no_grad():
            self.W_enc_FD.mul_(encoder_norm_init)

    @abstractmethod
    def activate(self, pre: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        """Latents, and what of each is penalised, from the pre-activations at these places."""

    def matters_above(self) -> Tensor:
        """The pre-activation up to which a latent is 0, costs nothing and has no gradient, (F,)."""
        return torch.zeros_like(self.b_enc_F)

    def encode(self, x_BD: Tensor) -> Tensor:
        return self.activate(self.pre_activations(x_BD), FullSupport())[0]

    def penalty(self, penalized: Tensor) -> Tensor:
        """Of a batch, scalar."""
        return penalized.sum()

    def auxiliary_loss(self, penalized: Tensor, support: Support, target_BD: Tensor) -> Tensor:
        """A term of the architecture's own, scalar; 0 where it has none."""
        return target_BD.new_zeros(())

    def _step(
        self, x_BD: Tensor, target_BD: Tensor, hide_latents: HideLatents, penalty_share: float | Tensor
    ) -> TrainingOutput:
        """`loss = reconstruction_loss + sparsity_coefficient * sparsity_loss + auxiliary_loss`."""
        pre, support = self._on_support(x_BD, hide_latents)
        latents, penalized = self.activate(pre, support)
        active = latents.detach() > 0
        dead_F = self._count_silence(support.any_of_latent(active), len(x_BD))
        residual_BD = target_BD - (summed(support.sums(latents, self.W_dec_FD), self.shards) + self.b_dec_D)
        reconstruction_loss = mean_square(residual_BD)
        sparsity_loss = summed(self.penalty(penalized), self.shards) / target_BD.numel()
        auxiliary_loss = self.auxiliary_loss(penalized, support, target_BD)
        penalty = penalty_share * self.sparsity_coefficient * sparsity_loss
        return TrainingOutput.of(
            reconstruction_loss + penalty + auxiliary_loss,
            reconstruction_loss=reconstruction_loss,
            sparsity_loss=sparsity_loss,
            auxiliary_loss=auxiliary_loss,
            residual_BD=residual_BD.detach(),
            target_BD=target_BD,
            active_latents=active.sum(),
            dead_F=dead_F,
        )

    def _on_support(self, x_BD: Tensor, hide_latents: HideLatents) -> tuple[Tensor, Support]:
        """Pre-activations, and the support that they are on."""
        pre_BF = hide_latents(self.pre_activations(x_BD))
        sparse = None
        if not (self.reference or self.has_static_shapes):
            sparse = support_above(pre_BF.detach(), self.matters_above(), MOST)
        if sparse is None:
            return pre_BF, FullSupport()
        b_dec_D = read_by_all(self.b_dec_D, self.shards)
        return sparse.pre_activations(pre_BF, x_BD, self.W_enc_FD, self.b_enc_F, b_dec_D), sparse
