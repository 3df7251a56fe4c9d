"""Training curves as the report draws them: what can be read of `metrics.csv`, and what is wrong with the rest."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from masked_sae.runs.curve import parse_rows
from masked_sae.runs.folder import RunFolder

_LARGEST = 1e30  # of what is drawn: a picture has single precision


@dataclass(frozen=True)
class TrainingCurve:
    """Attributes:
    rows: with `tokens`; empty where that is all that can be read.
    damage: what could not be read, in a line that names the file; empty where nothing is amiss.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    damage: str = ""


def read_curve(folder: Path) -> TrainingCurve:
    """Of a run."""
    path = RunFolder(folder).metrics
    if not path.exists():
        return TrainingCurve()
    try:
        _, rows, unreadable = parse_rows(path)
    except OSError as error:
        return TrainingCurve(damage=f"{path} cannot be read ({error.strerror})")
    damage = f"{path} is damaged ({unreadable} of its lines cannot be read)" if unreadable else ""
    drawn = [row for row in rows if not any(abs(value) > _LARGEST for value in row.values())]
    if len(drawn) < len(rows):
        damage = damage or f"{path} is damaged ({len(rows) - len(drawn)} rows with numbers that none can be)"
    curve = pd.DataFrame(drawn).astype("float64")
    if "tokens" not in curve:
        return TrainingCurve(damage=damage or f"{path} is damaged (no row of it can be read)")
    return TrainingCurve(curve, damage)
