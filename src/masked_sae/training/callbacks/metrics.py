"""Training metrics at intervals: the only place where a step's numbers are copied to the host."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from masked_sae.activations.stopwatch import Stopwatch
from masked_sae.runs.curve import COLUMNS, Metrics, Row
from masked_sae.saes import SAE
from masked_sae.training.clock import TrainingClock
from masked_sae.training.module import SAEModule
from masked_sae.training.validation import Validation

Sink = Callable[[Row], None]


class MetricsCallback(pl.Callback):
    """Hands what is measured to the sinks: at every `every`-th step, at those that are validated, and at the last.

    Args:
        sinks: each is called with the same row.
        batch_size: activations for one step.
        lm_watch: the time that the LM takes for the stream.
        validation: what is measured on held-out text, and when.
        clock: started and stopped with the training.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        batch_size: int,
        every: int,
        lm_watch: Stopwatch,
        clock: TrainingClock,
        validation: Validation | None = None,
    ) -> None:
        self._sinks, self._batch_size, self._every, self._lm_watch = sinks, batch_size, every, lm_watch
        self._clock, self._validation = clock, validation
        self._last_time, self._last_step, self._last_lm_seconds = time.monotonic(), 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        self._clock.start()
        self._last_time, self._last_step, self._last_lm_seconds = (
            time.monotonic(),
            pl_module.step,
            self._lm_watch.seconds,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock.stop()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SAEModule)
        step, steps = pl_module.step, pl_module.schedule.steps
        validation = self._validation if self._validation is not None and self._validation.due(step, steps) else None
        if step % self._every == 0 or step == steps or validation is not None:
            pl_module.refuse_non_finite_loss()
            metrics = self._measure(pl_module)
            validated, histograms = ({}, {}) if validation is None else validation.measure(pl_module.sae)
            row = Row(metrics | validated, histograms)
            for sink in self._sinks:
                sink(row)
            self._last_time = time.monotonic()  # validation and sinks are no training

    def _measure(self, module: SAEModule) -> Metrics:
        output = module.output
        assert output is not None
        measured = torch.stack(
            [
                output.loss.detach(),
                output.reconstruction_loss,
                output.sparsity_loss,
                output.auxiliary_loss,
                1 - output.squared_error / output.variance,
                output.l0,
                output.dead.float() / module.sae.d_sae,
                _mean_threshold(module.sae),
            ]
        ).tolist()
        now, lm_seconds = time.monotonic(), self._lm_watch.seconds
        elapsed = max(now - self._last_time, 1e-9)
        rate = (module.step - self._last_step) * self._batch_size / elapsed
        lm_share = min(1.0, (lm_seconds - self._last_lm_seconds) / elapsed)
        self._last_time, self._last_step, self._last_lm_seconds = now, module.step, lm_seconds
        others = (
            module.masked_share,
            module.schedule.at(module.step - 1),
            round(rate, 1),
            round(lm_share, 4),
            round(peak_memory(module.device) / 2**30, 3),
            round(self._clock.seconds, 2),
        )
        steps: Metrics = {"step": module.step, "tokens": module.step * self._batch_size}
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
