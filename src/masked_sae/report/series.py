"""What figures and charts draw: the same points for both, and the same looks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Design
from masked_sae.report.findings import by_seed
from masked_sae.report.runs import Runs

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """How an arm is drawn: colours differ in lightness too, and every arm has its own marker, so grey print will do.

    Attributes:
        marker, dash: matplotlib's names; `symbol`, `plotly_dash`: plotly's.
    """

    colour: str
    marker: str
    symbol: str
    dash: str
    plotly_dash: str


_MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("P", "cross"),
    ("X", "x"),
    ("<", "triangle-left"),
    (">", "triangle-right"),
    ("*", "star"),
)
_DASHES = (("-", "solid"), ("--", "dash"), ("-.", "dashdot"), (":", "dot"))


def look(place: int, count: int) -> Look:
    """The look of one of so many ordered things; the first is black, the others go from dark to light (viridis)."""
    share = 0.0 if count < 3 else (place - 1) / (count - 2)
    colour = "#000000" if place == 0 else to_hex(colormaps["viridis"](0.2 + 0.6 * share))
    marker, symbol = _MARKERS[place % len(_MARKERS)]
    return Look(colour, marker, symbol, *_DASHES[0])


def dash(place: int) -> tuple[str, str]:
    """A line style for a stratum: matplotlib's, plotly's."""
    return _DASHES[place % len(_DASHES)]


@dataclass(frozen=True)
class Front:
    """One arm of one stratum: a metric against L0, means over seeds with their range.

    Attributes:
        l0_K, value_K, count_K: means and numbers of seeds, by increasing L0.
        l0_range_2K, value_range_2K: smallest and largest of the seeds.
        runs: the runs themselves: `l0`, `value`, `run_id`, `folder`, `seed`.
    """

    arm: int
    stratum: int
    l0_K: Array
    value_K: Array
    count_K: NDArray[np.int64]
    l0_range_2K: Array
    value_range_2K: Array
    runs: pd.DataFrame


def fronts(runs: Runs, design: Design, metric: Metric) -> list[Front]:
    """Every arm of every stratum that has the metric."""
    table = runs.measured
    found: list[Front] = []
    for stratum in range(len(design.strata)):
        rows = by_seed(table, design, metric, stratum)
        for arm in range(len(design.arms)):
            of_sparsity = rows[rows["arm"] == arm].groupby("sparsity")
            l0 = of_sparsity["l0"].agg(["mean", "min", "max", "count"]).sort_values("mean")
            if l0.empty:
                continue
            value = of_sparsity["value"].agg(["mean", "min", "max"]).loc[l0.index]
            here = design.places[(design.places["arm"] == arm) & (design.places["stratum"] == stratum)]
            own = table.loc[here.index, [metric.l0, metric.key, "run_id", "folder"]].dropna()
            own = own.set_axis(["l0", "value", "run_id", "folder"], axis=1).assign(seed=here["seed"])
            found.append(
                Front(
                    arm,
                    stratum,
                    l0["mean"].to_numpy(),
                    value["mean"].to_numpy(),
                    l0["count"].to_numpy(),
                    l0[["min", "max"]].to_numpy().T,
                    value[["min", "max"]].to_numpy().T,
                    own,
                )
            )
    return found


def positions(design: Design) -> tuple[Array, list[str] | None]:
    """Where the arms lie on an axis: at their mask rates, or, where they differ in more, side by side with labels."""
    rates = [arm.rate for arm in design.arms]
    if any(rate is None for rate in rates):
        return np.arange(len(rates), dtype=np.float64), [arm.label for arm in design.arms]
    return np.array(rates, dtype=np.float64), None


def spread(design: Design, arms: Sequence[int], place: int, count: int) -> Array:
    """Where points of these arms lie: several series a little apart, so that intervals do not hide each other."""
    x_A, _ = positions(design)
    gaps = np.diff(np.unique(x_A))
    step = min(0.06, 0.5 / count) * float(gaps.min()) if len(gaps) else 0.02
    return x_A[list(arms)] + step * (place - (count - 1) / 2)


def axis_limits(values: Array, ends: Array) -> tuple[float, float] | None:
    """Limits that show all values, and of their intervals as much as leaves the values apart; None without values."""
    values, ends = values[np.isfinite(values)], ends[np.isfinite(ends)]
    if len(values) == 0:
        return None
    low, high = float(values.min()), float(values.max())
    room = max(high - low, 0.02 * max(abs(low), abs(high)), 1e-6)
    low_end = min(low, float(ends.min())) if len(ends) else low
    high_end = max(high, float(ends.max())) if len(ends) else high
    return max(low_end, low - 2 * room) - 0.06 * room, min(high_end, high + 2 * room) + 0.06 * room
