"""Training metrics at intervals: the only place where a step's numbers are copied to the host."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from masked_sae.runs.curve import COLUMNS, Histogram, Metrics, Row
from masked_sae.saes import SAE
from masked_sae.training.module import PackModule
from masked_sae.training.run_in_training import RunInTraining
from masked_sae.training.validation import Validation

Validated = tuple[Metrics, Mapping[str, Histogram]]


class MetricsCallback(pl.Callback):
    """Has each member record what is measured: at every so many steps, at those that are validated, and at the last.

    Args:
        validation: of each member: what is measured on held-out text, and when. Members that have the same one are
            measured together.
    """

    def __init__(self, validation: Mapping[RunInTraining, Validation]) -> None:
        self._validation = validation

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PackModule)
        for member in pl_module.stepped:
            with member.turn():
                member.watch.refuse_another()
        validated = self._validate([member for member in pl_module.stepped if member.error is None])
        for member in pl_module.stepped:
            every = member.run.config.trainer.log_every_steps
            if member.error is None and (
                member.step % every == 0 or member.step == member.steps or member in validated
            ):
                with member.guarded():
                    _record(member, *validated.get(member, ({}, {})))

    def _validate(self, members: Sequence[RunInTraining]) -> dict[RunInTraining, Validated]:
        due: dict[Validation, list[RunInTraining]] = {}
        for member in members:
            validation = self._validation.get(member)
            if validation is not None and validation.due(member.step, member.steps):
                with member.turn():
                    member.training.refuse_non_finite_loss()
                    due.setdefault(validation, []).append(member)
        found: dict[RunInTraining, Validated] = {}
        for validation, together in due.items():
            start = time.monotonic()
            measured = validation.measure_all([member.training.sae for member in together])
            share = (time.monotonic() - start) / len(together)
            for member, one in zip(together, measured, strict=True):
                member.clock.add_measuring(share)
                if isinstance(one, Exception):
                    member.fail(one)
                else:
                    found[member] = one
        return found


def _record(member: RunInTraining, validated: Metrics, histograms: Mapping[str, Histogram]) -> None:
    member.training.refuse_non_finite_loss()
    member.record(Row(_measure(member) | validated, histograms))


def _measure(member: RunInTraining) -> Metrics:
    training, output = member.training, member.training.output
    assert output is not None
    measured = torch.stack(
        [
            output.loss.detach(),
            output.reconstruction_loss,
            output.sparsity_loss,
            output.auxiliary_loss,
            1 - output.squared_error / output.variance,
            output.l0,
            output.dead.float() / training.sae.d_sae,
            _mean_threshold(training.sae),
        ]
    ).tolist()
    rate, lm_share = member.rates()
    others = (
        training.masked_share,
        training.schedule.at(training.step - 1),
        round(rate, 1),
        round(lm_share, 4),
        round(peak_memory(training.sae.b_dec_D.device) / 2**30, 3),
        round(member.clock.seconds, 2),
    )
    steps: Metrics = {"step": member.step, "tokens": member.step * member.run.config.data.batch_size}
    return steps | dict(zip(COLUMNS, (*measured, *others), strict=True))


@torch.no_grad()
def _mean_threshold(sae: SAE) -> Tensor:
    """Over the latents; 0 where an SAE has no thresholds."""
    threshold_F = sae.thresholds()
    return sae.b_dec_D.new_zeros(()) if threshold_F is None else threshold_F.mean()


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch has held on a CUDA device, or this process on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
