"""What is measured at a step of training, as it is handed to files, progress bar and W&B."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Metrics = dict[str, float]
Histogram = Mapping[str, Sequence[float]]  # `counts` of bins and their `edges`


@dataclass(frozen=True)
class Row:
    """What was measured at a step.

    Attributes:
        metrics: `step`, `tokens`, and numbers by name.
        histograms: by name; mostly there are none.
    """

    metrics: Metrics
    histograms: Mapping[str, Histogram] = field(default_factory=dict[str, Histogram])

    @property
    def step(self) -> int:
        return int(self.metrics["step"])
