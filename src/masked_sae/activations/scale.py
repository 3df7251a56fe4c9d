"""The scale and mean of an LM's activations, measured once before a run begins.

Axes: B activations, D `d_in`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import ShuffledSequences
from masked_sae.errors import NonFiniteError


@dataclass(frozen=True)
class ActivationStatistics:
    """Of clean training activations as the LM gives them: `scale * x` has a mean squared norm of `d_in`."""

    scale: float
    mean_D: Tensor

    def to_json(self) -> dict[str, Any]:
        """Exact: every float32 is a JSON number."""
        return {"scale": self.scale, "mean": self.mean_D.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ActivationStatistics":
        return cls(values["scale"], torch.tensor(values["mean"]))


def measure_statistics(lm: LM, sequences: ShuffledSequences, tokens: int, batch_size: int) -> ActivationStatistics:
    """Over about `tokens` clean activations of the run's first sequences.

    Args:
        batch_size: sequences per forward.

    Raises:
        NonFiniteError: an activation is NaN or infinite, or all are zero.
    """
    n_sequences = min(math.ceil(tokens / sequences.content_length), sequences.epoch)
    total_D = torch.zeros(lm.d_in, dtype=torch.float64)
    squares, count = 0.0, 0
    for first in range(0, n_sequences, batch_size):
        tokens_NT, kept_NT = sequences.read(np.arange(first, min(first + batch_size, n_sequences)))
        x_BD = lm.activations(tokens_NT)[kept_NT.to(lm.device)].double()
        lm.refuse_non_finite(x_BD, tokens_NT, kept_NT)
        total_D += x_BD.sum(0).cpu()
        squares += x_BD.square().sum().item()
        count += len(x_BD)
    if squares == 0:
        raise NonFiniteError(f"the activations at {lm.hook_name} are all zero: nothing to scale")
    return ActivationStatistics(math.sqrt(lm.d_in * count / squares), (total_D / count).float())
