"""What masking changed, metric by metric, and the sentences that say so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Arm, Design
from masked_sae.report.repetitions import Repetition, Repetitions, show_count, text_order_means
from masked_sae.report.runs_table import Runs
from masked_sae.report.statistics import (
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
CLUSTERED = (
    "Pairs agree in text order (data.seed) and in seed; each text order counts as the mean of its seeds, and intervals "
    "and p values are over text orders."
)
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Comparison:
    """One way of masking against none, for one metric.

    Attributes:
        average: over all L0s that both reach; corrected for there being several comparisons in the report.
        at_l0: at `Finding.l0_G`; not corrected.
    """

    arm: Arm
    average: Difference
    at_l0: tuple[Difference, ...]


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

    @property
    def sentence(self) -> str:
        return _sentence(self)


def find(runs: Runs, design: Design) -> list[Finding]:
    """The headline metrics of every stratum, all comparisons between them corrected together."""
    findings = [
        finding
        for stratum in range(len(design.strata))
        for metric in runs.catalogue.headlines(runs.metrics)
        if (finding := _find(runs.measured, design, metric, stratum)) is not None
    ]
    corrected = iter(holm([item.average for finding in findings for item in finding.comparisons]))
    return [
        replace(finding, comparisons=tuple(replace(item, average=next(corrected)) for item in finding.comparisons))
        for finding in findings
    ]


def comparisons_made(findings: Sequence[Finding]) -> int:
    """How many p values were corrected together."""
    return sum(not math.isnan(item.average.p) for finding in findings for item in finding.comparisons)


def text_orders_are_shared(findings: Sequence[Finding]) -> bool:
    """Whether some text order was repeated with several seeds, or a seed with several text orders."""
    return any(not repeated.seeds_alone for finding in findings for repeated in finding.repeated.values())


def answer(findings: Sequence[Finding]) -> str:
    """What masking did to the headline metrics of one stratum, in a sentence."""
    tested = [finding for finding in findings if finding.verdict != "nothing can be said"]
    if not tested:
        reasons = [item.average.reason for finding in findings for item in finding.comparisons if item.average.reason]
        most = max(dict.fromkeys(reasons), key=reasons.count) if reasons else "no unmasked runs to compare with"
        return f"Nothing can be said about masking: {most}." if findings else "No run has been measured yet."
    parts: list[str] = []
    for verdict in ("better", "worse", "changed", "mixed"):
        names = [finding.metric.label for finding in tested if finding.verdict == verdict]
        if names:
            verb = {"changed": "changed", "mixed": "moved both ways, depending on the mask"}.get(
                verdict, f"got {verdict}"
            )
            parts.append(f"{_together([_inside(name) for name in names])} {verb}")
    unmoved = sum(finding.verdict == "no detectable difference" for finding in tested)
    if unmoved:
        which = f"{'the other ' if parts else ''}{unmoved} metric{'s' if unmoved > 1 else ''}"
        parts.append(f"no detectable difference in {which}")
    return f"With masking, at matched L0: {'; '.join(parts)}."


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


def _sentence(finding: Finding) -> str:
    name = finding.metric.label
    if not finding.comparisons:
        return f"{name}: nothing can be said, for there are no unmasked runs to compare with."
    said: dict[str, list[Comparison]] = {}
    for item in finding.comparisons:
        said.setdefault(_said(finding.metric, item), []).append(item)
    ordered = sorted(said.items(), key=lambda pair: not pair[1][0].average.detected)
    seeds = {show_seeds(item.average) for item in finding.comparisons if not math.isnan(item.average.estimate)}
    parts = [f"{what} at {_together(_shown(items, tell_seeds=len(seeds) > 1))}" for what, items in ordered]
    return f"{name}: {'; '.join([*parts, *(seeds if len(seeds) == 1 else ())])}."


def _said(metric: Metric, item: Comparison) -> str:
    average = item.average
    if math.isnan(average.p):
        return f"nothing can be said ({average.reason})"
    if not average.detected:
        return "no detectable difference"
    which = direction(metric, average)
    return ("higher" if average.estimate > 0 else "lower") + ("" if which == "changed" else f", which is {which},")


def _shown(items: Sequence[Comparison], tell_seeds: bool) -> list[str]:
    """Each way of masking with what it changed; `mask rate` is said once."""
    shown: list[str] = []
    for item in items:
        average = item.average
        label = item.arm.label.removeprefix("mask rate ") if shown else item.arm.label
        if math.isnan(average.estimate):
            shown.append(label)
            continue
        notes = [show_difference(average)]
        if tell_seeds:
            notes.append(show_seeds(average))
        if not math.isnan(average.p) and not average.detected and not average.low <= 0 <= average.high:
            notes.append("not kept when corrected")
        shown.append(f"{label} ({', '.join(notes)})")
    return shown


def _inside(label: str) -> str:
    """A label within a sentence: abbreviations keep their capitals."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label


def _together(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def show_difference(difference: Difference) -> str:
    """`+0.012 [+0.004, +0.020]`; empty where there is no estimate."""
    if math.isnan(difference.estimate):
        return ""
    digits = decimals(difference.high - difference.low)
    text = signed(difference.estimate, digits)
    if math.isnan(difference.low):
        return text
    return f"{text} [{signed(difference.low, digits)}, {signed(difference.high, digits)}]"


def show_p(p: float) -> str:
    """`0.012`; empty where nothing was tested."""
    if math.isnan(p):
        return ""
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"


def show_seeds(difference: Difference) -> str:
    return show_count(difference.paired, difference.run)


def decimals(width: float) -> int:
    """So many that an interval of this width has two digits."""
    if not width > 0 or not math.isfinite(width):
        return 4
    return min(6, max(0, 1 - math.floor(math.log10(width))))


def signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else MINUS}{text}"
