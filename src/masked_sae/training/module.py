"""LightningModule over the SAEs of a pack: each batch of the stream is a step of all whose turn it is."""

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import nn

from masked_sae.activations.stopwatch import Stopwatch
from masked_sae.activations.stream import Batch, Point
from masked_sae.errors import NonFiniteError
from masked_sae.training.out_of_memory import STEP, telling
from masked_sae.training.run_in_training import RunInTraining, in_training


class PackModule(pl.LightningModule):
    """Trains one SAE or several. Members may be at different steps: those that are behind are trained until they meet.

    Args:
        lm_watch: the time that the LM takes for the stream.

    Attributes:
        stepped: the members that the latest batch was for, and that it did not end.
    """

    def __init__(self, members: Sequence[RunInTraining], lm_watch: Stopwatch) -> None:
        super().__init__()
        self.automatic_optimization = False  # each SAE has its own optimizer, clipping and loss
        self.members, self.stepped = members, list[RunInTraining]()
        self.trained = nn.ModuleList([member.training for member in members])
        self._lm_watch, self._lm_seconds = lm_watch, lm_watch.seconds

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [member.training.optimizer for member in self.members]

    def training_step(self, batches: Mapping[Point, Batch | NonFiniteError], batch_idx: int) -> None:
        now = in_training(self.members)
        self._share_forward(now)
        together = sum(not member.has_ended for member in self.members)
        for member in now:
            with member.turn(), telling(STEP, member.run, together):
                batch = batches[member.point]
                if isinstance(batch, NonFiniteError):
                    raise batch
                member.training.learn(batch)
        self.stepped = [member for member in now if member.error is None]

    def _share_forward(self, members: Sequence[RunInTraining]) -> None:
        spent = self._lm_watch.seconds - self._lm_seconds
        self._lm_seconds += spent
        if spent:
            for member in members:
                member.clock.add_forward(spent / len(members))
