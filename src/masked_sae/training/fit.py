"""Lightning's loop over the stream of a pack."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import closing

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment

from masked_sae.activations.stream import ActivationStream
from masked_sae.training.datamodule import ActivationDataModule
from masked_sae.training.module import PackModule
from masked_sae.training.run_in_training import RunInTraining
from masked_sae.training.stop_signals import StopRequest
from masked_sae.training.threads import matmul_precision


def fit(
    members: Sequence[RunInTraining], stream: ActivationStream, callbacks: Sequence[pl.Callback], stop: StopRequest
) -> None:
    """Trains each to its last step, or until a stop is asked for; nothing where all are there."""
    if not any(member.is_training for member in members):
        return
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
    module = PackModule(members, stream.watch)
    trainer = pl.Trainer(
        accelerator=next(module.parameters()).device.type,
        devices=1,
        max_epochs=1,
        callbacks=list(callbacks),
        plugins=[LightningEnvironment()],  # SLURM's signals are ours to handle
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    stop.listen()
    try:
        with matmul_precision(members[0].run.config.trainer.matmul_precision), closing(stream):
            trainer.fit(module, datamodule=ActivationDataModule(stream, members))
    finally:
        stop.close()
