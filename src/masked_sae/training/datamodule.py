"""LightningDataModule over the stream."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from masked_sae.activations.stream import ActivationStream, Batch
from masked_sae.activations.windows import Point
from masked_sae.errors import NonFiniteError
from masked_sae.training.member import Member, in_training
from masked_sae.training.out_of_memory import WINDOW, telling

Batches = Mapping[Point, Batch | NonFiniteError]


class _Remaining:
    """The batches that the members of a pack have not had, as an iterable with a length. Where some are behind, theirs
    come first.
    """

    def __init__(self, stream: ActivationStream, members: Sequence[Member]) -> None:
        self._stream, self._members = stream, members

    def __iter__(self) -> Iterator[Batches]:
        while next_ones := in_training(self._members):
            together = sum(not member.has_ended for member in self._members)
            with telling(WINDOW, next_ones[0].run, together):
                batches = self._stream.at_points(next_ones[0].step)
            yield batches

    def __len__(self) -> int:
        """A bound: members that end early take their batches with them."""
        return max(member.steps for member in self._members) - min(member.step for member in self._members)


class ActivationDataModule(pl.LightningDataModule):
    """Owns the stream of a pack."""

    def __init__(self, stream: ActivationStream, members: Sequence[Member]) -> None:
        super().__init__()
        self._remaining = _Remaining(stream, members)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # made where the SAEs are

    def train_dataloader(self) -> _Remaining:
        return self._remaining
