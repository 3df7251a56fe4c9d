"""One progress bar: tokens, tokens/s, loss, L0, explained variance."""

import sys
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from masked_sae.runs.curve import Row
from masked_sae.training.module import SAEModule


class ProgressCallback(pl.Callback):
    """Shows the run's tokens as they are trained on; also a sink for the metrics beside the bar."""

    def __init__(self, batch_size: int, shown: bool) -> None:
        self._batch_size, self._shown = batch_size, shown
        self._bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        self._bar = tqdm(
            desc="training",
            initial=pl_module.step * self._batch_size,
            total=pl_module.schedule.steps * self._batch_size,
            unit="tok",
            unit_scale=True,
            disable=not self._shown,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,  # a log file needs no animation
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt} {rate_fmt} {remaining}{postfix}",
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._bar.update(self._batch_size)

    def __call__(self, row: Row) -> None:
        metrics = row.metrics
        shown = {"loss": metrics["loss"], "L0": metrics["l0"], "EV": metrics["explained_variance"]}
        self._bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
