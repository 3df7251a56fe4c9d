"""What masking changed, metric by metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Arm, Design
from masked_sae.report.power import Power, power_of
from masked_sae.report.repetitions import Repetition, Repetitions, text_order_means
from masked_sae.report.runs_table import Runs
from masked_sae.report.statistics import (
    LEVEL,
    Curve,
    Difference,
    Interval,
    averaged_difference,
    differences_at,
    holm,
    nothing,
    t_interval,
)

_SHOWN_L0S = 5


@dataclass(frozen=True)
class Comparison:
    """One way of masking against none, for one metric.

    Attributes:
        average: over all L0s that both reach; corrected for there being several comparisons in the report.
        at_l0: at `Finding.l0_G`; not corrected.
        power: what `average` could have shown, at the level that the correction asks of the first claim; None where
            nothing was tested.
    """

    arm: Arm
    average: Difference
    at_l0: tuple[Difference, ...]
    power: Power | None = None


@dataclass(frozen=True)
class Finding:
    """What a metric shows within one stratum.

    Attributes:
        stratum: its label; empty where there is only one.
        arms: positions of the arms that have runs here.
        level: `[arm, sparsity]` over text orders, at the sparsity that was set: each counts as the mean of its seeds.
        l0_level: L0 likewise.
        repeated: likewise, what these rest on.
        l0_G: L0s within the range of the unmasked runs at which differences are shown.
        comparisons: one for each masked arm; none without unmasked runs.
    """

    metric: Metric
    stratum: str
    level: dict[tuple[int, int], Interval]
    l0_level: dict[tuple[int, int], Interval]
    repeated: dict[tuple[int, int], Repetitions]
    l0_G: NDArray[np.float64]
    comparisons: tuple[Comparison, ...]

    @property
    def verdict(self) -> str:
        """better, worse, changed, mixed, no detectable difference, or nothing can be said."""
        detected = {direction(self.metric, item.average) for item in self.comparisons if item.average.detected}
        if len(detected) > 1:
            return "mixed"
        if detected:
            return detected.pop()
        tested = [item for item in self.comparisons if not math.isnan(item.average.p)]
        return "no detectable difference" if tested else "nothing can be said"


def find(runs: Runs, design: Design) -> list[Finding]:
    """The headline metrics of every stratum, all comparisons between them corrected together."""
    findings = [
        finding
        for stratum in range(len(design.strata))
        for metric in runs.catalogue.headlines(runs.metrics)
        if (finding := _find(runs.measured, design, metric, stratum)) is not None
    ]
    corrected = iter(holm([item.average for finding in findings for item in finding.comparisons]))
    alpha = (1 - LEVEL) / max(1, comparisons_made(findings))

    def judged(item: Comparison) -> Comparison:
        average = next(corrected)
        return replace(item, average=average, power=_power(average, alpha))

    return [replace(finding, comparisons=tuple(map(judged, finding.comparisons))) for finding in findings]


def comparisons_made(findings: Sequence[Finding]) -> int:
    """How many p values were corrected together."""
    return sum(not math.isnan(item.average.p) for finding in findings for item in finding.comparisons)


def text_orders_are_shared(findings: Sequence[Finding]) -> bool:
    """Whether some text order was repeated with several seeds, or a seed with several text orders."""
    return any(not repeated.seeds_alone for finding in findings for repeated in finding.repeated.values())


def direction(metric: Metric, difference: Difference) -> str:
    if not metric.better:
        return "changed"
    return "better" if (difference.estimate > 0) == (metric.better == "higher") else "worse"


def by_repetition(table: pd.DataFrame, design: Design, metric: Metric, stratum: int) -> pd.DataFrame:
    """One row for each arm, sparsity, data seed and seed, with `l0` and `value`; runs that were done twice count as
    their mean."""
    keys = ["arm", "sparsity", "data_seed", "seed"]
    empty = pd.DataFrame(columns=[*keys, "l0", "value"])
    if metric.key not in table or metric.l0 not in table:
        return empty
    rows = design.places.assign(l0=table[metric.l0], value=table[metric.key])
    rows = rows[(rows["stratum"] == stratum) & np.isfinite(rows["value"]) & (rows["l0"] > 0) & np.isfinite(rows["l0"])]
    if rows.empty:
        return empty
    return rows.groupby(keys, dropna=False, as_index=False)[["l0", "value"]].mean()


def clustered(rows: pd.DataFrame, column: str) -> Interval:
    """The mean of these repetitions with its interval, over the means of their text orders."""
    return t_interval(text_order_means(rows[column].to_numpy(), list(rows["data_seed"])))


def repetitions_of(rows: pd.DataFrame) -> Repetitions:
    return Repetitions(tuple(map(Repetition, rows["data_seed"], rows["seed"])))


def _power(average: Difference, alpha: float) -> Power | None:
    if math.isnan(average.p) or not average.spread > 0:
        return None
    return power_of(average.spread, average.paired.text_orders, alpha)


def _find(table: pd.DataFrame, design: Design, metric: Metric, stratum: int) -> Finding | None:
    rows = by_repetition(table, design, metric, stratum)
    if rows.empty:
        return None
    alike = {_pair(key): group for key, group in rows.groupby(["arm", "sparsity"])}
    level, l0_level = ({key: clustered(group, name) for key, group in alike.items()} for name in ("value", "l0"))
    repeated = {key: repetitions_of(group) for key, group in alike.items()}
    curves = _curves(rows)
    baseline = design.baseline
    label = design.strata[stratum]
    if baseline is None or baseline not in curves:
        return Finding(metric, label, level, l0_level, repeated, np.array([]), ())
    l0_G = _shown_l0s(list(curves[baseline].values()))
    comparisons = tuple(
        Comparison(
            design.arms[arm],
            averaged_difference(curves[baseline], curves[arm]) if arm in curves else nothing("no run is done"),
            tuple(differences_at(curves[baseline], curves.get(arm, {}), l0_G)),
        )
        for arm in range(len(design.arms))
        if arm != baseline and arm in set(design.places.loc[design.places["stratum"] == stratum, "arm"])
    )
    return Finding(metric, label, level, l0_level, repeated, l0_G, comparisons)


def _pair(key: Any) -> tuple[int, int]:
    """Of a group by two whole numbers."""
    first, second = key
    return int(first), int(second)


def _curves(rows: pd.DataFrame) -> dict[int, dict[Repetition, Curve]]:
    curves: dict[int, dict[Repetition, Curve]] = {}
    keys: Any
    for keys, group in rows.dropna(subset=["seed"]).groupby(["arm", "data_seed", "seed"]):
        arm, data_seed, seed = map(int, keys)
        ordered = group.sort_values("sparsity")
        columns = [ordered[name].to_numpy() for name in ("sparsity", "l0", "value")]
        curves.setdefault(arm, {})[Repetition(data_seed, seed)] = Curve(*columns)
    return curves


def _shown_l0s(unmasked: list[Curve]) -> NDArray[np.float64]:
    """A few L0s, evenly in the logarithm, within what all unmasked repetitions reach."""
    most = max(len(curve.l0_K) for curve in unmasked)
    unmasked = [curve for curve in unmasked if len(curve.l0_K) == most]
    if most < 2:
        return np.array([])
    low, high = max(curve.l0_K.min() for curve in unmasked), min(curve.l0_K.max() for curve in unmasked)
    if not low < high:
        return np.array([])
    inner = np.geomspace(low, high, _SHOWN_L0S)
    rounded = np.array([float(f"{l0:.2g}") if l0 < 100 else float(f"{l0:.3g}") for l0 in inner])
    return np.unique(np.where((rounded >= low) & (rounded <= high), rounded, inner))
