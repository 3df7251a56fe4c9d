"""SAEs on held-out clean text, now and then while they train."""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import overload

from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.errors import NonFiniteError
from masked_sae.evals.core import CoreMeasurement, evaluate_core
from masked_sae.runs.curve import VALIDATED, Histogram, Metrics
from masked_sae.saes import SAE, InferenceSAE, for_inference

_DENSE_FREQUENCY = 0.1  # of a metric that is not among them


class Validation:
    """Core metrics over a few sequences, always the same ones, with the thresholds as they are learned so far.

    Nothing is drawn and nothing changed: training is the same with and without it.

    Args:
        held_out: sequences.
        scale: by which training multiplies activations.
        every: steps between two measurements; the last step is measured too.
        tokens: about so many activations.
        batch_size: sequences per forward.
    """

    def __init__(self, lm: LM, held_out: Sequences, scale: float, *, every: int, tokens: int, batch_size: int) -> None:
        self._lm, self._held_out, self._scale = lm, held_out, scale
        self._every, self._tokens, self._batch_size = every, tokens, batch_size
        self._known: dict[str, float] | None = None

    def due(self, step: int, steps: int) -> bool:
        return step % self._every == 0 or step == steps

    def measure_all(self, saes: Sequence[SAE]) -> list[tuple[Metrics, Mapping[str, Histogram]] | NonFiniteError]:
        """Of each SAE `VALIDATED` (CE recovered only where the LM has an output layer), and histograms over latents.

        The text is read once. In place of an SAE with a weight that is NaN or infinite is what says so.
        """
        finite = [all(bool(parameter.isfinite().all()) for parameter in sae.parameters()) for sae in saes]
        measured = iter(self._measured(list(compress(saes, finite))))
        return [next(measured) if is_finite else _not_finite() for is_finite in finite]

    def _measured(self, saes: Sequence[SAE]) -> list[tuple[Metrics, Mapping[str, Histogram]]]:
        if not saes:
            return []
        cores = evaluate_core(
            _ForInference(saes, self._scale),
            self._lm,
            self._held_out,
            tokens=self._tokens,
            batch_size=self._batch_size,
            dense_frequency=_DENSE_FREQUENCY,
            known=self._known,
        )
        self._known = cores[0].metrics
        return [_named(core) for core in cores]


class _ForInference(Sequence[InferenceSAE]):
    """Each is made when it is asked for: only one copy of an encoder's weights is in memory."""

    def __init__(self, saes: Sequence[SAE], scale: float) -> None:
        self._saes, self._scale = saes, scale

    def __len__(self) -> int:
        return len(self._saes)

    @overload
    def __getitem__(self, index: int) -> InferenceSAE: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[InferenceSAE]: ...
    def __getitem__(self, index: int | slice) -> InferenceSAE | Sequence[InferenceSAE]:
        if isinstance(index, slice):
            return _ForInference(self._saes[index], self._scale)
        return for_inference(self._saes[index], self._scale)


def _named(core: CoreMeasurement) -> tuple[Metrics, Mapping[str, Histogram]]:
    found = {f"val/{name}": value for name, value in core.metrics.items()}
    histograms = {f"val/{name}": histogram for name, histogram in core.histograms().items()}
    return {name: found[name] for name in VALIDATED if name in found}, histograms


def _not_finite() -> NonFiniteError:
    valid = "finite numbers: lower optim.lr, or set optim.gradient_clip"
    return NonFiniteError(f"a weight of the SAE is NaN or infinite; expected {valid}")
