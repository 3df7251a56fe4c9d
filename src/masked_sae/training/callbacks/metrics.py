"""Training metrics at intervals."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from masked_sae.runs.curve import Histogram, Metrics, Row
from masked_sae.saes import SAE
from masked_sae.training.module import PackModule
from masked_sae.training.out_of_memory import VALIDATION, telling
from masked_sae.training.run_in_training import RunInTraining
from masked_sae.training.shards import whole_sae
from masked_sae.training.step_metrics import step_metrics
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
            with telling(VALIDATION, together[0].run, len(together)):
                measured = validation.measure_all([_whole(member) for member in together])
            share = (time.monotonic() - start) / len(together)
            for member, one in zip(together, measured, strict=True):
                member.clock.add_measuring(share)
                if isinstance(one, Exception):
                    member.fail(one)
                else:
                    found[member] = one
        return found


def _whole(member: RunInTraining) -> SAE:
    training = member.training
    return whole_sae(training, training.sae.b_dec_D.device)


def _record(member: RunInTraining, validated: Metrics, histograms: Mapping[str, Histogram]) -> None:
    member.training.refuse_non_finite_loss()
    member.record(Row(_measure(member) | validated, histograms))


def _measure(member: RunInTraining) -> Metrics:
    training = member.training
    rate, lm_share = member.rates()
    steps: Metrics = {"step": member.step, "tokens": member.step * member.run.config.data.batch_size}
    return (
        steps
        | step_metrics(training)
        | {
            "tokens_per_second": round(rate, 1),
            "lm_time_share": round(lm_share, 4),
            "peak_memory_gib": round(peak_memory(training.sae.b_dec_D.device) / 2**30, 3),
            "seconds": round(member.clock.seconds, 2),
        }
    )


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch has held on a CUDA device, or this process on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
