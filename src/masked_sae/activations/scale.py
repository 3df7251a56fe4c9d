"""The scale and mean of an LM's activations, measured once before a run begins.

Axes: B activations, D `d_in`.
"""

import math
from collections.abc import Sequence
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


def measure_statistics(
    lms: Sequence[LM], sequences: ShuffledSequences, tokens: int, batch_size: int
) -> list[ActivationStatistics | NonFiniteError]:
    """Over about `tokens` clean activations of the run's first sequences, from one forward for all hook points; of one
    where an activation is NaN or infinite, or all are zero, what is wrong.

    Args:
        lms: one LM, at different hook points.
        batch_size: sequences per forward.
    """
    n_sequences = min(math.ceil(tokens / sequences.content_length), sequences.epoch)
    sums = [_OfLM(lm) for lm in lms]
    for first in range(0, n_sequences, batch_size):
        tokens_NT, kept_NT = sequences.read(np.arange(first, min(first + batch_size, n_sequences)))
        found = lms[0].activations_at([lm.hook_name for lm in lms], tokens_NT)
        for one, x_NTD in zip(sums, found, strict=True):
            one.add(x_NTD, tokens_NT, kept_NT)
    return [one.statistics() for one in sums]


class ActivationSums:
    """Over batches of activations: what their scale and mean follow from."""

    def __init__(self, d_in: int) -> None:
        self._total_D = torch.zeros(d_in, dtype=torch.float64)
        self._squares, self._count = 0.0, 0

    def add(self, x_BD: Tensor) -> None:
        x_BD = x_BD.double()
        self._total_D += x_BD.sum(0).cpu()
        self._squares += x_BD.square().sum().item()
        self._count += len(x_BD)

    def statistics(self, where: str) -> ActivationStatistics:
        """Raises:
        NonFiniteError: all were zero; says `where`.
        """
        if self._squares == 0:
            raise NonFiniteError(f"the activations at {where} are all zero: nothing to scale")
        scale = math.sqrt(len(self._total_D) * self._count / self._squares)
        return ActivationStatistics(scale, (self._total_D / self._count).float())


class _OfLM:
    """At one hook point."""

    def __init__(self, lm: LM) -> None:
        self._lm, self._sums = lm, ActivationSums(lm.d_in)
        self._error: NonFiniteError | None = None

    def add(self, x_NTD: Tensor, tokens_NT: Tensor, kept_NT: Tensor) -> None:
        x_BD = x_NTD[kept_NT.to(x_NTD.device)].double()
        try:
            self._lm.refuse_non_finite(x_BD, tokens_NT, kept_NT)
        except NonFiniteError as error:
            self._error = self._error or error
        self._sums.add(x_BD)

    def statistics(self) -> ActivationStatistics | NonFiniteError:
        if self._error is not None:
            return self._error
        try:
            return self._sums.statistics(self._lm.hook_name)
        except NonFiniteError as error:
            return error
