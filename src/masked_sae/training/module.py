"""LightningModule over an SAE: one optimizer step, and the learning rate of every step."""

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from masked_sae.activations.stream import Batch
from masked_sae.errors import NonFiniteError
from masked_sae.masks.masking import hide_inputs, hide_latents
from masked_sae.randomness import torch_generator
from masked_sae.saes import SAE, TrainingOutput


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `lr`, then constant, then linear decay to 0 over the last `decay_fraction` of the steps."""

    lr: float
    warmup_steps: int
    decay_fraction: float
    steps: int

    def at(self, step: int) -> float:
        decay_steps = self.decay_fraction * self.steps
        decay = min(1.0, (self.steps - step) / decay_steps) if decay_steps >= 1 else 1.0
        return self.lr * min(warmed_up(step, self.warmup_steps), decay)


def warmed_up(step: int, warmup_steps: int) -> float:
    """The share that a linear warm-up has reached at a step."""
    return min(1.0, (step + 1) / max(1, warmup_steps))


class SAEModule(pl.LightningModule):
    """Trains one SAE. `step` counts optimizer steps over the run's whole life, resumptions included.

    Every random choice of a step is drawn from the seed and the step, so there is no generator state to carry along.
    """

    def __init__(
        self,
        sae: SAE,
        schedule: Schedule,
        seed: int,
        latent_mask_rate: float = 0.0,
        input_mask_rate: float = 0.0,
        penalty_warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        self.sae, self.schedule, self.seed = sae, schedule, seed
        self.penalty_warmup_steps = penalty_warmup_steps
        self.latent_mask_rate, self.input_mask_rate = latent_mask_rate, input_mask_rate
        self.step = 0
        self.output: TrainingOutput | None = None  # of the latest step, for callbacks
        self.masked_share = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.sae.parameters(), lr=self.schedule.lr, fused=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        for group in self.optimizers(use_pl_optimizer=False).param_groups:  # type: ignore[union-attr]
            group["lr"] = self.schedule.at(self.step)
        x_BD = hide_inputs(batch.x_BD, self.input_mask_rate, self._generator("input mask"))
        penalty_share = warmed_up(self.step, self.penalty_warmup_steps)
        self.output = self.sae.training_output(x_BD, batch.target_BD, self._hide_latents, penalty_share)
        self.masked_share = batch.masked_share
        return self.output.loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.sae.project_decoder_gradient()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.sae.project_parameters()
        self.step += 1

    def refuse_non_finite_loss(self) -> None:
        """Looks at the latest loss, which copies it to the host.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        if self.output is not None and not torch.isfinite(self.output.loss):
            raise NonFiniteError(
                f"the loss is {self.output.loss.item()} at step {self.step} of {self.schedule.steps}; "
                f"expected a finite number: lower optim.lr={self.schedule.lr:g}, or set optim.gradient_clip"
            )

    def _hide_latents(self, pre_BF: Tensor) -> Tensor:
        return hide_latents(pre_BF, self.latent_mask_rate, self._generator("latent mask"))

    def _generator(self, purpose: str) -> torch.Generator:
        return torch_generator(self.seed, purpose, self.step, self.device)
