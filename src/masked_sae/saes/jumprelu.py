"""JumpReLU SAE (Rajamanoharan et al. 2024, arXiv 2407.14435): a learned threshold for each latent, and an L0 penalty.

Axes: F `d_sae`.

Neither penalty nor jump has a useful derivative by the threshold. It is estimated with a kernel `K`, a square of width
1 (sections 3 and 4): of the step `H(z - t)` it is `-K((z - t) / bandwidth) / bandwidth`, of the jump `z H(z - t)` it is
`t` times as much. By `z` the step has none, and the jump has `H(z - t)`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from masked_sae import checks
from masked_sae.saes.latent_support import Support
from masked_sae.saes.penalty_family import PenalizedSAE, PenalizedSettings
from masked_sae.settings import setting

NARROWEST = 1e-9  # a gradient is divided by the bandwidth


@dataclass(kw_only=True)
class Settings(PenalizedSettings):
    """Attributes:
    threshold_init: of every latent; like `bandwidth` in units of activations of mean squared norm `d_in`.
    bandwidth: of the kernel that estimates the thresholds' gradient.
    """

    threshold_init: float = setting(unit="of activations of mean squared norm d_in")
    bandwidth: float = setting(unit="of activations of mean squared norm d_in")

    def check(self) -> None:
        super().check()
        checks.coefficient("sae.threshold_init", self.threshold_init)
        checks.within("sae.bandwidth", self.bandwidth, NARROWEST, checks.MOST_COEFFICIENT)

    def make(self, d_in: int, generator: torch.Generator) -> "JumpReLUSAE":
        own = {"threshold_init": self.threshold_init, "bandwidth": self.bandwidth}
        return JumpReLUSAE(d_in, self.d_sae, self.sparsity_coefficient, **own, **self.shared(generator))


class JumpReLUSAE(PenalizedSAE):
    """`f = z H(z - t)` of `z = (x - b_dec) W_enc + b_enc`; the penalty is the number of active latents.

    The threshold `t` itself is the parameter, kept at 0 or above, where the paper has its logarithm: Adam changes a
    parameter by about the learning rate at most, which moves the logarithm of a small threshold too little.

    Args:
        threshold_init: every latent's at the start.
        bandwidth: of the kernel; like the threshold, in units of activations of mean squared norm `d_in`.
        others: as for `PenalizedSAE`.
    """

    threshold_F: nn.Parameter

    def __init__(self, *args: Any, threshold_init: float = 0.5, bandwidth: float = 1.0, **others: Any) -> None:
        super().__init__(*args, **others)
        if not (threshold_init >= 0 and bandwidth > 0):
            raise ValueError(
                f"threshold_init={threshold_init}, bandwidth={bandwidth}: expected at least 0, and above 0"
            )
        self.bandwidth = bandwidth
        self.threshold_F = nn.Parameter(torch.full((self.d_sae,), float(threshold_init)))

    def activate(self, pre: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        jump, step = _JumpAndStep.apply(pre, support.of_latents(self.threshold_F), self.bandwidth)  # type: ignore[misc]
        return jump, step

    def matters_above(self) -> Tensor:
        return self.threshold_F - self.bandwidth / 2

    def thresholds(self) -> Tensor:
        return self.threshold_F

    @torch.no_grad()
    def set_thresholds(self, threshold_F: Tensor | None) -> None:
        if threshold_F is None:
            raise ValueError("a threshold for each latent")
        self.threshold_F.copy_(threshold_F)

    @torch.no_grad()
    def project_parameters(self) -> None:
        """Keeps thresholds at 0 or above, too: below it negative latents would pass."""
        super().project_parameters()
        self.threshold_F.clamp_(min=0)


class _JumpAndStep(torch.autograd.Function):
    """`z H(z - t)` and `H(z - t)`, with the derivatives that the module's docstring gives."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        active = ~(z <= threshold)  # NaN too, for the loss to show it
        ctx.save_for_backward(active, (z - threshold).abs() < bandwidth / 2, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(active, z, 0.0), active.type_as(z)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_jump: Tensor, grad_step: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        active, near, threshold = ctx.saved_tensors
        grad_near = (grad_jump * threshold + grad_step) * near
        return grad_jump * active, grad_near.sum_to_size(threshold.shape) / -ctx.bandwidth, None
