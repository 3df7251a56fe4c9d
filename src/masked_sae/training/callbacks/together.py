"""Ranks that train together stay together: after each step the first one says who has ended, and whether to go on."""

from typing import Any, cast

import pytorch_lightning as pl
import torch

from masked_sae.ranks import Ranks
from masked_sae.training.member import Member
from masked_sae.training.module import PackModule


class TogetherCallback(pl.Callback):
    """The last of the callbacks: what the others decide on the first rank, it carries to the rest."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        members = cast("PackModule[Member]", pl_module).members
        said = torch.tensor([trainer.should_stop, *(member.has_ended for member in members)], dtype=torch.uint8)
        stops, *ended = self._ranks.from_first(said).tolist()
        for member, has_ended in zip(members, ended, strict=True):
            if has_ended and not member.has_ended:
                member.end()
        trainer.should_stop = bool(stops)
