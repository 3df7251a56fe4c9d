"""Lightning's loop over the stream of a pack."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from masked_sae.activations.stream import ActivationStream
from masked_sae.config import TrainerSettings
from masked_sae.ranks import ALONE, Ranks
from masked_sae.training.compiled import forget_compiled
from masked_sae.training.datamodule import ActivationDataModule
from masked_sae.training.member import Member
from masked_sae.training.module import PackModule
from masked_sae.training.stop_signals import StopRequest
from masked_sae.training.threads import matmul_precision


def fit(
    members: Sequence[Member],
    stream: ActivationStream,
    callbacks: Sequence[pl.Callback],
    stop: StopRequest,
    settings: TrainerSettings,
    ranks: Ranks = ALONE,
) -> None:
    """Trains each to its last step, or until a stop is asked for; nothing where all are there.

    Args:
        ranks: that train together.
    """
    if not any(member.is_training for member in members):
        return
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
    for member in members:
        member.training.divide_among(ranks)
    module = PackModule(members, stream.watch, ranks)
    trainer = pl.Trainer(
        accelerator=next(module.parameters()).device.type,
        max_epochs=1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **_among(ranks, settings.nodes),
    )
    stop.listen()
    try:
        with matmul_precision(settings.matmul_precision), closing(stream):
            trainer.fit(module, datamodule=ActivationDataModule(stream, members))
    finally:
        stop.close()
        if settings.compile:
            forget_compiled()


def _among(ranks: Ranks, nodes: int) -> dict[str, Any]:
    """What Lightning is told of the processes."""
    if ranks.is_alone:
        return {"devices": 1, "plugins": [LightningEnvironment()]}  # SLURM's signals are ours to handle
    devices = ranks.count // nodes
    environment = _Joined(ranks, devices)
    return {"devices": devices, "num_nodes": nodes, "strategy": _Together(), "plugins": [environment]}


class _Together(DDPStrategy):
    """Processes that are there already. The gradients of each member are exchanged in its own step
    (`training/gradients.py`): a pack's members need not all be at each step, and most rows of theirs are zeros.
    """

    def __init__(self) -> None:
        super().__init__(process_group_backend="gloo")  # is there; Lightning asks nevertheless

    def configure_ddp(self) -> None:
        pass


class _Joined(ClusterEnvironment):
    """What Lightning asks of processes that have found each other."""

    def __init__(self, ranks: Ranks, devices: int) -> None:
        super().__init__()
        self._ranks, self._devices = ranks, devices

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        raise AssertionError("the group is there")

    @property
    def main_port(self) -> int:
        raise AssertionError("the group is there")

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._ranks.count

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._ranks.rank % self._devices

    def node_rank(self) -> int:
        return self._ranks.rank // self._devices
