"""Training metrics at intervals: the only place where a step's numbers are copied to the host."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from masked_sae.module import SAEModule
from masked_sae.saes.batch_topk import BatchTopKSAE

Metrics = dict[str, float]
Sink = Callable[[Metrics], None]


class MetricsCallback(pl.Callback):
    """Hands the metrics of every `every`-th step, and of the last, to the sinks.

    Args:
        sinks: each is called with the same values.
        batch_size: activations for one step.
        every: steps between two calls.
        seconds: spent in training before this attempt.
    """

    def __init__(self, sinks: Sequence[Sink], batch_size: int, every: int, seconds: float = 0.0) -> None:
        self._sinks, self._batch_size, self._every = sinks, batch_size, every
        self._seconds_before = seconds
        self._started = self._last_time = time.monotonic()
        self._last_step = 0
        self._ended: float | None = self._started
        self.latest: Metrics = {}

    @property
    def seconds(self) -> float:
        """Spent in training, this attempt and those before it."""
        return self._seconds_before + (self._ended or time.monotonic()) - self._started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        self._started = self._last_time = time.monotonic()
        self._ended = None
        self._last_step = pl_module.step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ended = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SAEModule)
        if pl_module.step % self._every == 0 or pl_module.step == pl_module.schedule.steps:
            pl_module.refuse_non_finite_loss()
            self.latest = self._measure(pl_module)
            for sink in self._sinks:
                sink(self.latest)

    def _measure(self, module: SAEModule) -> Metrics:
        output = module.output
        assert output is not None
        now = time.monotonic()
        rate = (module.step - self._last_step) * self._batch_size / max(now - self._last_time, 1e-9)
        self._last_time, self._last_step = now, module.step
        values = torch.stack(
            [
                output.loss.detach(),
                output.reconstruction_loss,
                output.auxiliary_loss,
                1 - output.squared_error / output.variance,
                output.l0,
                output.dead.float() / module.sae.d_sae,
                module.sae.threshold if isinstance(module.sae, BatchTopKSAE) else torch.zeros_like(output.l0),
            ]
        ).tolist()
        names = (
            "loss",
            "reconstruction_loss",
            "auxiliary_loss",
            "explained_variance",
            "l0",
            "dead_latents",
            "threshold",
        )
        return {
            "step": module.step,
            "tokens": module.step * self._batch_size,
            **dict(zip(names, values, strict=True)),
            "masked_share": module.masked_share,
            "lr": module.schedule.at(module.step - 1),
            "tokens_per_second": round(rate, 1),
            "seconds": round(self.seconds, 2),
        }
