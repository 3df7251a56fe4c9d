"""LightningModule over an SAE: one optimizer step.

Axes: B activations, D `d_in`, F `d_sae`.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from masked_sae.activations.stream import Batch
from masked_sae.errors import NonFiniteError
from masked_sae.masks.run_masks import Masks
from masked_sae.saes import SAE, TrainingOutput
from masked_sae.training.schedule import Schedule, warmed_up


class SAEModule(pl.LightningModule):
    """Trains one SAE. `step` counts optimizer steps over the run's whole life, resumptions included.

    Every random choice of a step is drawn from the seed and the step, so there is no generator state to carry along.
    """

    def __init__(self, sae: SAE, schedule: Schedule, masks: Masks, penalty_warmup_steps: int = 0) -> None:
        super().__init__()
        self.sae, self.schedule, self.masks = sae, schedule, masks
        self.penalty_warmup_steps = penalty_warmup_steps
        self.step = 0
        self.output: TrainingOutput | None = None  # of the latest step, for callbacks
        self.masked_share = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.sae.parameters(), lr=self.schedule.lr, fused=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        for group in self.optimizers(use_pl_optimizer=False).param_groups:  # type: ignore[union-attr]
            group["lr"] = self.schedule.at(self.step)
        x_BD = self.masks.mask_inputs(batch.x_BD, self.step)
        penalty_share = warmed_up(self.step, self.penalty_warmup_steps)
        self.output = self.sae.training_output(x_BD, batch.target_BD, self._mask_latents, penalty_share)
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

    def _mask_latents(self, pre_BF: Tensor) -> Tensor:
        return self.masks.mask_latents(pre_BF, self.step)
