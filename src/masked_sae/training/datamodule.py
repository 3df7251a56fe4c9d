"""LightningDataModule over the stream."""

from collections.abc import Iterator

import pytorch_lightning as pl
import torch

from masked_sae.activations.stream import ActivationStream, Batch


class _Remaining:
    """The batches from `start` on, as an iterable with a length."""

    def __init__(self, stream: ActivationStream, start: int) -> None:
        self._stream, self._start = stream, start

    def __iter__(self) -> Iterator[Batch]:
        return self._stream.batches(self._start)

    def __len__(self) -> int:
        return self._stream.plan.steps - self._start


class ActivationDataModule(pl.LightningDataModule):
    """Owns the stream of a run; training begins at batch `start`, which is not 0 in a resumed run."""

    def __init__(self, stream: ActivationStream, start: int = 0) -> None:
        super().__init__()
        self.stream, self.start = stream, start

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # made where the LM runs, which is where the SAE is

    def train_dataloader(self) -> _Remaining:
        return _Remaining(self.stream, self.start)
