"""An SAE on held-out clean text, now and then while it trains."""

from collections.abc import Mapping

from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.errors import NonFiniteError
from masked_sae.evals.core import evaluate_core
from masked_sae.runs.curve import VALIDATED, Histogram, Metrics
from masked_sae.saes import SAE, for_inference

_DENSE_FREQUENCY = 0.1  # of a metric that is not among them


class Validation:
    """Core metrics over a few sequences, always the same ones, with the thresholds as they are learned so far.

    It draws nothing and changes nothing: training is the same with and without it.

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

    def measure(self, sae: SAE) -> tuple[Metrics, Mapping[str, Histogram]]:
        """`VALIDATED` (CE recovered only where the LM has an output layer), and histograms over latents.

        Raises:
            NonFiniteError: a weight of the SAE is NaN or infinite.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in sae.parameters()):
            valid = "finite numbers: lower optim.lr, or set optim.gradient_clip"
            raise NonFiniteError(f"a weight of the SAE is NaN or infinite; expected {valid}")
        core = evaluate_core(
            for_inference(sae, self._scale),
            self._lm,
            self._held_out,
            tokens=self._tokens,
            batch_size=self._batch_size,
            dense_frequency=_DENSE_FREQUENCY,
            known=self._known,
        )
        self._known = core.metrics
        found = {f"val/{name}": value for name, value in core.metrics.items()}
        histograms = {f"val/{name}": histogram for name, histogram in core.histograms().items()}
        return {name: found[name] for name in VALIDATED if name in found}, histograms

    def measure_all(self, saes):  # TEMPORARY
        out = []
        for sae in saes:
            try:
                out.append(self.measure(sae))
            except NonFiniteError as error:
                out.append(error)
        return out
