"""One progress bar: tokens, tokens/s, loss, L0, explained variance."""

import sys
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from masked_sae.training.module import PackModule
from masked_sae.training.run_in_training import RunInTraining

_SHOWN = {"loss": "loss", "L0": "l0", "EV": "explained_variance"}


class ProgressCallback(pl.Callback):
    """Shows a pack's tokens as they are trained on: of those members that are the furthest behind."""

    def __init__(self, batch_size: int, shown: bool) -> None:
        self._batch_size, self._shown = batch_size, shown
        self._bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PackModule)
        members = pl_module.members
        self._bar = tqdm(
            desc="training" if len(members) == 1 else f"training {len(members)} runs",
            initial=min(member.step for member in members) * self._batch_size,
            total=max(member.steps for member in members) * self._batch_size,
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
        assert isinstance(pl_module, PackModule)
        if self._shown:
            self._bar.set_postfix({name: _shown(pl_module.stepped, key) for name, key in _SHOWN.items()}, refresh=False)
        self._bar.update(self._batch_size)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()


def _shown(members: list[RunInTraining], key: str) -> str:
    """As last measured; of several members the least and the most."""
    found = sorted(member.notes.latest[key] for member in members if key in member.notes.latest)
    ends = [f"{value:.3g}" for value in (found[0], found[-1])] if found else ["-"]
    return "-".join(dict.fromkeys(ends))
