"""Checkpoints at intervals and before an orderly stop."""

from typing import Any

import pytorch_lightning as pl

from masked_sae.runs.checkpoint import save_checkpoint
from masked_sae.training.module import PackModule
from masked_sae.training.restoring import capture
from masked_sae.training.run_in_training import RunInTraining
from masked_sae.training.stop_signals import StopRequest


class CheckpointCallback(pl.Callback):
    """Saves each member at every so many steps, at its last, and where a stop was asked for, which it then carries out.

    Args:
        stop: when requested, training ends after the current step.
    """

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop.listen()  # again: Lightning has just put up handlers of its own

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PackModule)
        for member in pl_module.stepped:
            every = member.run.config.trainer.checkpoint_every_steps
            if member.error is None and (
                member.step % every == 0 or member.step == member.steps or self._stop.requested
            ):
                with member.turn():
                    _save(member)
        if self._stop.requested or not any(member.is_training for member in pl_module.members):
            trainer.should_stop = True


def _save(member: RunInTraining) -> None:
    member.training.refuse_non_finite_loss()
    save_checkpoint(member.run.folder.checkpoints, capture(member.training, member.extra()))
    member.notes.note(member.step)
