"""Checkpoints at intervals, before an orderly stop, and of a member that is asked to end."""

import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from masked_sae.runs.asked_end import AskedEnd, asked_end
from masked_sae.runs.checkpoint import save_checkpoint
from masked_sae.training.module import PackModule
from masked_sae.training.restoring import capture
from masked_sae.training.run_in_training import RunInTraining
from masked_sae.training.stop_signals import StopRequest

_LOOKS_EVERY_SECONDS = 0.5


class CheckpointCallback(pl.Callback):
    """Saves each member at every so many steps, at its last, and where an end was asked for, which it then carries out:
    of the member alone (`runs/asked_end.py`), or of all by a signal.

    Args:
        stop: when requested, training ends after the current step.
    """

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self._looked_at = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop.listen()  # again: Lightning has just put up handlers of its own

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PackModule)
        asked = self._asked(pl_module.stepped)
        for member in pl_module.stepped:
            every = member.run.config.trainer.checkpoint_every_steps
            if member.error is None and (
                member.step % every == 0 or member.step == member.steps or self._stop.requested or member in asked
            ):
                with member.turn():
                    _save(member)
                if member in asked and member.is_training:
                    with member.guarded():
                        member.end_as_asked(asked[member])
        if self._stop.requested or not any(member.is_training for member in pl_module.members):
            trainer.should_stop = True

    def _asked(self, members: Sequence[RunInTraining]) -> dict[RunInTraining, AskedEnd]:
        """Those that were asked to end; not looked for at every step, since a network file system may be slow."""
        if time.monotonic() - self._looked_at < _LOOKS_EVERY_SECONDS:
            return {}
        self._looked_at = time.monotonic()
        found = {member: asked_end(member.run.folder) for member in members}
        return {member: asked for member, asked in found.items() if asked is not None}


def _save(member: RunInTraining) -> None:
    member.training.refuse_non_finite_loss()
    save_checkpoint(member.run.folder.checkpoints, capture(member.training, member.extra()))
    member.notes.note(member.step)
