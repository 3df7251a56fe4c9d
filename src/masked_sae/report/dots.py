"""What is drawn in a front's place where no arm has a second sparsity: the arms as rows, apart, with their runs and
intervals. A metric against L0 would be a point for each arm, of which nothing can be read but that masking shifts L0.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Design
from masked_sae.report.runs_table import Runs
from masked_sae.report.series import REFERENCE, Look, fronts, look, references
from masked_sae.report.statistics import Interval

APART = 0.22  # of a row's height, by which its runs lie below its mean


@dataclass(frozen=True)
class Row:
    """An arm of a stratum, or a reference.

    Attributes:
        name: `l0` is told beside it: rows of different L0 are not compared by looking at them.
        interval: of the mean; without an end where one text order, or a reference, tells of no spread.
        count: what it rests on.
        runs: the runs themselves: `l0`, `value`, `run_id`, `folder`.
    """

    name: str
    l0: float
    look: Look
    interval: Interval
    count: str
    runs: pd.DataFrame


def dot_rows(runs: Runs, design: Design, metric: Metric) -> list[Row]:
    """From top to bottom; none where some arm has several sparsities, or none has any."""
    drawn = fronts(runs, design, metric)
    if not drawn or any(len(front.l0_K) > 1 for front in drawn):
        return []
    rows = [
        Row(
            front.name,
            float(front.l0_K[0]),
            look(front.arm, len(design.arms)),
            front.intervals[0],
            front.counts[0],
            front.runs,
        )
        for front in drawn
    ]
    return rows + [
        Row(
            f"reference: {one.name}",
            one.l0,
            REFERENCE,
            Interval(one.value, math.nan, math.nan, 1),
            "of no arm",
            pd.DataFrame([{"l0": one.l0, "value": one.value, "run_id": one.name, "folder": one.folder}]),
        )
        for one in references(runs, metric)
    ]


def ends(interval: Interval) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """How far it reaches below and above the mean: (2, 1); nowhere where that is not known."""
    return np.nan_to_num(np.array([[interval.mean - interval.low], [interval.high - interval.mean]]))
