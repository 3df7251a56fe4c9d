"""What figures and charts draw: the same points for both, and the same looks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Design
from masked_sae.report.findings import Finding, by_repetition, clustered, repetitions_of
from masked_sae.report.repetitions import show_count
from masked_sae.report.runs_table import Runs
from masked_sae.report.statistics import Interval

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
REFERENCE = Look("#b2182b", "h", "hexagon2", "", "")  # no arm's, neither in colour nor in shape
_DASHES = (("-", "solid"), ("--", "dash"), ("-.", "dashdot"), (":", "dot"))
_MOST_TICKS = 14


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
    """One arm of one stratum: a metric against L0, means over text orders with the range of their seeds.

    Attributes:
        name: of the arm, and of the stratum where there are several.
        l0_K, value_K: means, by increasing L0; counts: what each rests on.
        intervals: of the values.
        l0_range_2K, value_range_2K: smallest and largest of the seeds.
        runs: the runs themselves: `l0`, `value`, `run_id`, `folder`.
    """

    name: str
    arm: int
    stratum: int
    l0_K: Array
    value_K: Array
    counts: tuple[str, ...]
    intervals: tuple[Interval, ...]
    l0_range_2K: Array
    value_range_2K: Array
    runs: pd.DataFrame


def fronts(runs: Runs, design: Design, metric: Metric) -> list[Front]:
    """Every arm of every stratum that has the metric."""
    table = runs.measured
    found: list[Front] = []
    for stratum in range(len(design.strata)):
        rows = by_repetition(table, design, metric, stratum)
        for arm in range(len(design.arms)):
            alike = [group for _, group in rows[rows["arm"] == arm].groupby("sparsity")]
            if not alike:
                continue
            alike.sort(key=lambda group: clustered(group, "l0").mean)
            intervals = tuple(clustered(group, "value") for group in alike)
            here = design.places[(design.places["arm"] == arm) & (design.places["stratum"] == stratum)]
            own = table.loc[here.index, [metric.l0, metric.key, "run_id", "folder"]].dropna()
            found.append(
                Front(
                    ", ".join(part for part in (design.arms[arm].label, design.strata[stratum]) if part),
                    arm,
                    stratum,
                    np.array([clustered(group, "l0").mean for group in alike]),
                    np.array([interval.mean for interval in intervals]),
                    tuple(show_count(repetitions_of(group)) for group in alike),
                    intervals,
                    _range(alike, "l0"),
                    _range(alike, "value"),
                    own.set_axis(["l0", "value", "run_id", "folder"], axis=1),
                )
            )
    return found


def _range(alike: Sequence[pd.DataFrame], column: str) -> Array:
    """Smallest and largest of the repetitions: (2, K)."""
    return np.array([[group[column].min() for group in alike], [group[column].max() for group in alike]])


@dataclass(frozen=True)
class Reference:
    """An SAE from elsewhere: a point of its own, of no front."""

    name: str
    folder: str
    l0: float
    value: float


def references(runs: Runs, metric: Metric) -> list[Reference]:
    """Those of which the metric was measured."""
    table = runs.references
    if metric.key not in table or metric.l0 not in table:
        return []
    shown = table[np.isfinite(table[metric.key]) & np.isfinite(table[metric.l0]) & (table[metric.l0] > 0)]
    columns = [shown[name] for name in ("run_id", "folder", metric.l0, metric.key)]
    return [Reference(str(n), str(f), float(l0), float(value)) for n, f, l0, value in zip(*columns, strict=True)]


def log_ticks(values: Array, base: float) -> Array:
    """Ticks of a logarithmic axis on which these values lie: powers of two, or 1, 2 and 5 times powers of ten; where
    fewer than two of these lie among the values, evenly spaced round numbers.
    """
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) == 0:
        return np.array([])
    low, high = float(values.min()), float(values.max())
    first, last = (np.log([low / 1.5, high * 1.5]) / np.log(base)).tolist()
    powers = base ** np.arange(np.floor(first), np.ceil(last) + 1)
    ticks = np.sort(powers if base == 2 else np.concatenate([powers, 2 * powers, 5 * powers]))
    if ((ticks >= low) & (ticks <= high)).sum() >= 2:
        return _thinned(ticks[(ticks >= low / 1.5) & (ticks <= high * 1.5)])
    if high <= low * (1 + 1e-9):
        return np.array([float(f"{low:.4g}")])
    even = np.asarray(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high), dtype=np.float64)
    return even[(even > 0) & (even >= low / 1.5) & (even <= high * 1.5)]


def _thinned(ticks: Array) -> Array:
    """At most about so many as an axis has room for."""
    return ticks[:: max(1, -(-len(ticks) // _MOST_TICKS))]


def tick_texts(ticks: Array) -> list[str]:
    return [f"{tick:.10g}" for tick in ticks]


@dataclass(frozen=True)
class Series:
    """One line of a response to masking, with 95 % intervals.

    Attributes:
        place, count: which of how many lines it is; some may have nothing to show.
        x_K: where its points lie, a little beside those of the other lines.
        arms: of its points, as places in the design.
        l0_K, counts: mean L0, and what each point rests on.
    """

    name: str
    place: int
    count: int
    x_K: Array
    arms: tuple[int, ...]
    mean_K: Array
    low_K: Array
    high_K: Array
    l0_K: Array
    counts: tuple[str, ...]


def levels(design: Design, finding: Finding) -> list[Series]:
    """The metric at each sparsity that was set, one line each."""
    sparsities = sorted({sparsity for _, sparsity in finding.level})
    found: list[Series] = []
    for place, sparsity in enumerate(sparsities):
        arms = [arm for arm in range(len(design.arms)) if (arm, sparsity) in finding.level]
        intervals = [finding.level[arm, sparsity] for arm in arms]
        points = [
            (item.mean, item.low, item.high, finding.l0_level[arm, sparsity].mean)
            for arm, item in zip(arms, intervals, strict=True)
        ]
        name = design.sparsities[sparsity] or "all runs"
        counts = [show_count(finding.repeated[arm, sparsity]) for arm in arms]
        found.append(_series(design, name, (place, len(sparsities)), arms, points, counts))
    return found


def differences(design: Design, finding: Finding) -> list[Series]:
    """Masked minus unmasked at matched L0, one line for each L0 at which something can be said."""
    found: list[Series] = []
    for place, l0 in enumerate(finding.l0_G):
        items = [(design.arms.index(item.arm), item.at_l0[place]) for item in finding.comparisons]
        items = [(arm, item) for arm, item in items if np.isfinite(item.estimate)]
        if items:
            points = [(item.estimate, item.low, item.high, l0) for _, item in items]
            arms, counts = [arm for arm, _ in items], [show_count(item.paired) for _, item in items]
            found.append(_series(design, f"L0 {l0:.3g}", (place, len(finding.l0_G)), arms, points, counts))
    return found


def _series(
    design: Design,
    name: str,
    place: tuple[int, int],
    arms: Sequence[int],
    points: Sequence[tuple[float, float, float, float]],
    counts: Sequence[str],
) -> Series:
    mean_K, low_K, high_K, l0_K = np.array(points, dtype=np.float64).T
    x_K = spread(design, arms, *place)
    return Series(name, *place, x_K, tuple(arms), mean_K, low_K, high_K, l0_K, tuple(counts))


def series_limits(shown: Sequence[Series], *values: float) -> tuple[float, float] | None:
    """`axis_limits` of these lines and values."""
    means = [np.array(values, dtype=np.float64), *(series.mean_K for series in shown)]
    ends = [np.array([]), *(end_K for series in shown for end_K in (series.low_K, series.high_K))]
    return axis_limits(np.concatenate(means), np.concatenate(ends))


def positions(design: Design) -> tuple[Array, list[str] | None]:
    """Where the arms lie on an axis: at their mask rates, or, where they differ in more, side by side with labels."""
    rates = [arm.rate for arm in design.arms]
    if any(rate is None for rate in rates):
        return np.arange(len(rates), dtype=np.float64), [arm.label for arm in design.arms]
    return np.array(rates, dtype=np.float64), None


def position_limits(x_A: Array) -> tuple[float, float]:
    margin = 0.08 * float(np.ptp(x_A)) or 0.05
    return float(x_A.min()) - margin, float(x_A.max()) + margin


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
