"""Checkpoints at intervals and before an orderly stop; and how a run is put back where one left it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from masked_sae.runs.checkpoint import Checkpoint, save_checkpoint
from masked_sae.training.module import SAEModule
from masked_sae.training.stop_signals import StopRequest


class CheckpointCallback(pl.Callback):
    """Saves at every `every`-th step, at the last, and where a stop was asked for, which it then carries out.

    Args:
        folder: of the checkpoints.
        every: steps between two.
        stop: when requested, training ends after the current step.
        extra: JSON values to keep with each checkpoint.
        on_saved: called after each.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        stop: StopRequest,
        extra: Callable[[], dict[str, Any]],
        on_saved: Callable[[int], object],
    ) -> None:
        self._folder, self._every, self._stop = folder, every, stop
        self._extra, self._on_saved = extra, on_saved

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop.listen()  # again: Lightning has just put up handlers of its own

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SAEModule)
        step, steps = pl_module.step, pl_module.schedule.steps
        if step % self._every == 0 or step == steps or self._stop.requested:
            pl_module.refuse_non_finite_loss()
            save_checkpoint(self._folder, capture(pl_module, trainer.optimizers[0], self._extra()))
            self._on_saved(step)
        if self._stop.requested and step < steps:
            trainer.should_stop = True


def capture(module: SAEModule, optimizer: torch.optim.Optimizer, extra: dict[str, Any]) -> Checkpoint:
    """All that training goes on from: parameters, counters, thresholds, Adam's moments, and the step.

    Random state and the stream's position are functions of the seed and the step.
    """
    tensors = {f"sae/{name}": tensor for name, tensor in module.sae.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in state.items()}
    return Checkpoint(tensors, {**extra, "step": module.step})


def restore(module: SAEModule, optimizer: torch.optim.Optimizer | None, checkpoint: Checkpoint) -> None:
    """Puts module, and optimizer if there is one, where `capture` found them."""
    sae_state: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "sae":
            sae_state[rest] = tensor
        else:
            index, _, key = rest.partition("/")
            moments.setdefault(int(index), {})[key] = tensor
    module.sae.load_state_dict(sae_state)
    module.step = checkpoint.meta["step"]
    if optimizer is not None:
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
