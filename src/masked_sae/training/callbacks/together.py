"""Ranks that train together stay together: after each step the first one says who has ended, and whether to go on.

Before that it may ask for what needs all of them: an SAE whose latents they share, as a whole.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
import torch

from masked_sae.ranks import Ranks
from masked_sae.training.member import Member
from masked_sae.training.module import PackModule
from masked_sae.training.sae_training import needs_no_word
from masked_sae.training.shards import ANSWERS


class TogetherCallback(pl.Callback):
    """The last of the callbacks: what the others decide on the first rank, it carries to the rest."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for index, member in enumerate(_members(pl_module)):
            if self._ranks.is_first and not member.training.sae.shards.is_alone:
                flags = [other == index for other in range(len(_members(pl_module)))]
                member.training.announce = partial(self._said, flags=flags)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        members = _members(pl_module)
        own = [member.has_ended for member in members]
        what, *flags = self._said(trainer.should_stop, flags=own)
        while what in ANSWERS:  # the first one waits for it, in a callback before this one
            ANSWERS[what](members[flags.index(1)].training)
            what, *flags = self._said(trainer.should_stop, flags=own)
        for member, has_ended in zip(members, flags, strict=True):
            if has_ended and not member.has_ended:
                member.end()
        trainer.should_stop = bool(what)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for member in _members(pl_module):
            member.training.announce = needs_no_word

    def _said(self, what: int, *, flags: Sequence[bool]) -> list[int]:
        """By the first one: whether to stop and who has ended, or what is asked for and of whom."""
        return self._ranks.from_first(torch.tensor([what, *flags], dtype=torch.uint8)).tolist()


def _members(module: pl.LightningModule) -> Sequence[Member]:
    return cast("PackModule[Member]", module).members
