"""LightningModule over the SAEs of a pack: each batch of the stream is a step of all whose turn it is."""

from collections.abc import Mapping, Sequence
from typing import Generic

import pytorch_lightning as pl
import torch
from torch import nn

from masked_sae.activations.stopwatch import Stopwatch
from masked_sae.activations.stream import Batch
from masked_sae.activations.windows import Point
from masked_sae.errors import NonFiniteError
from masked_sae.ranks import ALONE, Ranks
from masked_sae.training.member import AnyMember, in_training
from masked_sae.training.out_of_memory import STEP, telling


class PackModule(pl.LightningModule, Generic[AnyMember]):
    """Trains one SAE or several. Members may be at different steps: those that are behind are trained until they meet.

    Args:
        lm_watch: the time that the LM takes for the stream.
        ranks: that train together.

    Attributes:
        stepped: the members that the latest batch was for, and that it did not end.
    """

    def __init__(self, members: Sequence[AnyMember], lm_watch: Stopwatch, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.automatic_optimization = False  # each SAE has its own optimizer, clipping and loss
        self.members, self.stepped = members, list[AnyMember]()
        self.trained = nn.ModuleList([member.training for member in members])
        self._is_alone = ranks.is_alone
        self._lm_watch, self._lm_seconds = lm_watch, lm_watch.seconds

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [member.training.optimizer for member in self.members]

    def training_step(self, batches: Mapping[Point, Batch | NonFiniteError], batch_idx: int) -> None:
        now = in_training(self.members)
        self._share_forward(now)
        together = sum(not member.has_ended for member in self.members)
        for member in now:
            batch = batches[member.point]
            if isinstance(batch, NonFiniteError):
                member.fail(batch)
                continue
            # Others wait for this rank within the step: what befalls it there is everybody's.
            with member.turn() if self._is_alone else member.clock.own, telling(STEP, member.run, together):
                member.training.learn(batch)
        self.stepped = [member for member in now if not member.has_ended]

    def _share_forward(self, members: Sequence[AnyMember]) -> None:
        spent = self._lm_watch.seconds - self._lm_seconds
        self._lm_seconds += spent
        if spent:
            for member in members:
                member.clock.add_forward(spent / len(members))
