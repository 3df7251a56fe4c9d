"""An SAE in training: one optimizer step.

Axes: B activations, D `d_in`, F `d_sae`.
"""

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from masked_sae.activations.stream import Batch
from masked_sae.errors import NonFiniteError
from masked_sae.masks.run_masks import Masks
from masked_sae.randomness import torch_generator
from masked_sae.ranks import ALONE, Ranks
from masked_sae.saes import SAE, TrainingOutput
from masked_sae.saes.sae import HideLatents
from masked_sae.training.compiled import compiled, left_alone
from masked_sae.training.gradients import average_gradients, clip_gradients
from masked_sae.training.optimizers import make_optimizer
from masked_sae.training.schedule import Schedule, warmed_up


class SAETraining(nn.Module):
    """Trains one SAE. `step` counts optimizer steps over the run's whole life, resumptions included.

    Every random choice of a step is drawn from the seed and the step, so there is no generator state to carry along.

    Args:
        gradient_clip: of the global norm; 0 for none.
        seed: of what the SAE itself draws.
        optimizer: its name, as `optim.name`.
        compiler: the backend of `torch.compile` that makes the step up to the gradients; None: nothing is compiled.

    Attributes:
        ranks: that every batch is divided among; each has all of the SAE, and the same step leads each to the same
            weights. Where the SAE's latents are divided (`training/shards.py`) it is alone: every rank has whole
            batches.
        announce: called on the first rank before what all have to take part in beside steps.
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
        compiler: str | None = None,
    ) -> None:
        super().__init__()
        self.ranks: Ranks = ALONE
        self.announce: Callable[[int], object] = needs_no_word
        self.sae, self.schedule, self.masks = sae, schedule, masks
        self.penalty_warmup_steps, self.gradient_clip, self.seed = penalty_warmup_steps, gradient_clip, seed
        self.optimizer = make_optimizer(optimizer, sae.parameters(), schedule.lr)
        self._compiled: tuple[Callable[..., TrainingOutput], HideLatents] | None = None
        if compiler is not None:  # but for masks, which draw anew with every step
            self._compiled = compiled(sae.training_output, compiler), left_alone(self._mask_latents)
        self.step = 0
        self.output: TrainingOutput | None = None  # of the latest step, for those who measure
        self.masked_share = 0.0

    def divide_among(self, ranks: Ranks) -> None:
        """From here on each of these gets its share of a batch."""
        if self.sae.shards.is_alone:
            self.ranks = self.sae.ranks = ranks

    def learn(self, batch: Batch) -> None:
        """One step on this rank's share of a batch. Gradients are gone after it: of many SAEs in a pack, one at a time
        has some.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(self.step)
        batch = _of_all_rows(batch, self.sae.shards)
        x_BD = self._mask_inputs(batch.x_BD)
        self.sae.begin_step(self.step, self.schedule.steps, self._draws)
        output = self._training_output(x_BD, batch.target_BD)
        self.masked_share = batch.masked_share
        output.loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.sae, self.ranks)
        self.output = of_whole_batch(output, batch.target_BD, self.ranks)
        self.sae.project_decoder_gradient()
        if self.gradient_clip > 0:
            clip_gradients(self.sae, self.gradient_clip)
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

    def _training_output(self, x_BD: Tensor, target_BD: Tensor) -> TrainingOutput:
        penalty_share = warmed_up(self.step, self.penalty_warmup_steps)
        hides = self.masks.hide_latents
        if self._compiled is None:
            return self.sae.training_output(x_BD, target_BD, self._mask_latents if hides else None, penalty_share)
        training_output, mask_latents = self._compiled
        share = self.sae.b_enc_F.new_full((), penalty_share)  # a number would be a constant, each compiled by itself
        return training_output(x_BD, target_BD, mask_latents if hides else None, share)

    def _draws(self) -> torch.Generator:
        return torch_generator(self.seed, "SAE's step", self.step, self.sae.b_enc_F.device)

    def _mask_inputs(self, x_BD: Tensor) -> Tensor:
        if self.ranks.is_alone or not self.masks.hide_inputs:
            return self.masks.mask_inputs(x_BD, self.step)
        return _within_batch(x_BD, 0, self.ranks, lambda whole_BD: self.masks.mask_inputs(whole_BD, self.step))

    def _mask_latents(self, pre_BF: Tensor) -> Tensor:
        ranks, dim = (self.ranks, 0) if self.sae.shards.is_alone else (self.sae.shards, 1)
        if ranks.is_alone:
            return self.masks.mask_latents(pre_BF, self.step)
        return _within_batch(pre_BF, dim, ranks, lambda whole_BF: self.masks.mask_latents(whole_BF, self.step))


def needs_no_word(what: int) -> None:
    """Where nobody else has to take part."""


def _of_all_rows(batch: Batch, shards: Ranks) -> Batch:
    """The whole batch, of which each has rows."""
    if shards.is_alone:
        return batch
    x_BD = shards.gather(batch.x_BD)
    target_BD = x_BD if batch.target_BD is batch.x_BD else shards.gather(batch.target_BD)
    return Batch(x_BD, target_BD, batch.masked_share)


def _within_batch(part: Tensor, dim: int, ranks: Ranks, mask: Callable[[Tensor], Tensor]) -> Tensor:
    """What a mask makes of these rows (0), or of these latents (1), where they stand in the whole batch: it draws for
    all of it, whatever the number of ranks.
    """
    size = part.shape[dim]
    whole = part.new_zeros([length * ranks.count if axis == dim else length for axis, length in enumerate(part.shape)])
    whole.narrow(dim, ranks.rank * size, size).copy_(part)
    return mask(whole).narrow(dim, ranks.rank * size, size).contiguous()


@torch.no_grad()
def of_whole_batch(output: TrainingOutput, target_BD: Tensor, ranks: Ranks) -> TrainingOutput:
    """What a step tells of this rank's share of a batch, told of all of it."""
    if ranks.is_alone:
        return output
    names = [one.name for one in fields(output) if one.name != "dead"]  # which is of the whole batch already
    own = torch.stack([getattr(output, name).detach().to(target_BD.dtype) for name in names])
    all_RN = ranks.gather(torch.cat([own, target_BD.mean(0)])[None])
    means = dict(zip(names, all_RN[:, : len(names)].mean(0), strict=True))
    target_RD = all_RN[:, len(names) :]
    between = (target_RD - target_RD.mean(0)).square().sum(1).mean()  # the variance of the shares' means
    return replace(output, **means | {"variance": means["variance"] + between})
