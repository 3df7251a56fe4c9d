"""Lightning's loop over the stream, from the beginning or from a checkpoint."""

import logging
import warnings
from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment

from masked_sae.activations.stream import ActivationStream
from masked_sae.runs.checkpoint import Checkpoint
from masked_sae.training.callbacks.checkpointing import restore
from masked_sae.training.datamodule import ActivationDataModule
from masked_sae.training.module import SAEModule
from masked_sae.training.stop_signals import StopRequest


def fit(
    module: SAEModule,
    stream: ActivationStream,
    callbacks: Sequence[pl.Callback],
    checkpoint: Checkpoint | None,
    stop: StopRequest,
    gradient_clip: float,
) -> None:
    """Trains to the last step, or until a stop is asked for; a checkpoint of the last step is only put back.

    Args:
        gradient_clip: of the global norm; 0 for none.
    """
    start = 0 if checkpoint is None else checkpoint.meta["step"]
    if checkpoint is not None and start == stream.plan.steps:
        restore(module, None, checkpoint)
        return
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
    trainer = pl.Trainer(
        accelerator=module.device.type,
        devices=1,
        max_epochs=1,
        gradient_clip_val=gradient_clip or None,
        callbacks=[*([] if checkpoint is None else [_Restore(checkpoint)]), *callbacks],
        plugins=[LightningEnvironment()],  # SLURM's signals are ours to handle
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    stop.listen()
    try:
        trainer.fit(module, datamodule=ActivationDataModule(stream, start))
    finally:
        stop.close()


class _Restore(pl.Callback):
    """Puts the checkpoint back once Lightning has made the optimizer."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        restore(pl_module, trainer.optimizers[0], self._checkpoint)
