"""An SAE in training: one optimizer step.

Axes: B activations, D `d_in`, F `d_sae`.
"""

import torch
from torch import Tensor, nn

from masked_sae.activations.stream import Batch
from masked_sae.errors import NonFiniteError
from masked_sae.masks.run_masks import Masks
from masked_sae.randomness import torch_generator
from masked_sae.saes import SAE, TrainingOutput
from masked_sae.training.optimizers import make_optimizer
from masked_sae.training.schedule import Schedule, warmed_up


class SAETraining(nn.Module):
    """Trains one SAE. `step` counts optimizer steps over the run's whole life, resumptions included.

    Every random choice of a step is drawn from the seed and the step, so there is no generator state to carry along.

    Args:
        gradient_clip: of the global norm; 0 for none.
        seed: of what the SAE itself draws.
        optimizer: its name, as `optim.name`.
    """

    def __init__(
        self,
        sae: SAE,
        schedule: Schedule,
        masks: Masks,
        *,
        penalty_warmup_steps: int = 0,
        gradient_clip: float = 0.0,
        seed: int = 0,
        optimizer: str = "adam",
    ) -> None:
        super().__init__()
        self.sae, self.schedule, self.masks = sae, schedule, masks
        self.penalty_warmup_steps, self.gradient_clip, self.seed = penalty_warmup_steps, gradient_clip, seed
        self.optimizer = make_optimizer(optimizer, sae.parameters(), schedule.lr)
        self.step = 0
        self.output: TrainingOutput | None = None  # of the latest step, for those who measure
        self.masked_share = 0.0

    def learn(self, batch: Batch) -> None:
        """One step. Gradients are gone after it: of many SAEs in a pack, one at a time has some."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(self.step)
        x_BD = self.masks.mask_inputs(batch.x_BD, self.step)
        self.sae.begin_step(self.step, self.schedule.steps, self._draws)
        penalty_share = warmed_up(self.step, self.penalty_warmup_steps)
        self.output = self.sae.training_output(x_BD, batch.target_BD, self._mask_latents, penalty_share)
        self.masked_share = batch.masked_share
        self.output.loss.backward()  # type: ignore[no-untyped-call]
        self.sae.project_decoder_gradient()
        if self.gradient_clip > 0:
            nn.utils.clip_grad_norm_(self.sae.parameters(), self.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
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

    def _draws(self) -> torch.Generator:
        return torch_generator(self.seed, "SAE's step", self.step, self.sae.b_enc_F.device)

    def _mask_latents(self, pre_BF: Tensor) -> Tensor:
        return self.masks.mask_latents(pre_BF, self.step)
