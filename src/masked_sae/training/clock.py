"""How long a run has trained, all its attempts together."""

import torch

from masked_sae.activations.stopwatch import Stopwatch


class TrainingClock:
    """A member's own time, and its share of what it has in common with others of its pack.

    Args:
        seconds: spent in earlier attempts.

    Attributes:
        own: stands around what is done for the member alone.
        forward: seconds of the LM, of this attempt: the member's share.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self.own = Stopwatch(device)
        self.forward = 0.0
        self._before, self._measuring = seconds, 0.0

    def add_forward(self, seconds: float) -> None:
        self.forward += seconds

    def add_measuring(self, seconds: float) -> None:
        """Of what is measured while training, which is none of the training's speed."""
        self._measuring += seconds

    @property
    def training(self) -> float:
        """Seconds of this attempt, in steps and their share of the LM."""
        return self.own.seconds + self.forward

    @property
    def seconds(self) -> float:
        return self._before + self.training + self._measuring
