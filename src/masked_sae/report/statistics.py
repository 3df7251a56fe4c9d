"""What masking changed at matched L0: paired differences over seeds, with intervals.

Runs of equal k differ in L0, and most metrics move with L0. So for each seed the metric is interpolated along that
seed's sparsity axis, in log L0, for the masked and for the unmasked runs; their difference at the same L0 is one
observation, and the seeds are the sample.

Axes: K sparsities, G values of L0, S seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.interpolate import PchipInterpolator

LEVEL = 0.95
SAME_L0 = 0.005  # L0s that differ by less than this share are the same: nothing is interpolated
ENOUGH_SPARSITIES = 3  # two points do not tell how the curve bends between them
OUTSIDE = "outside the range of L0 measured"
_GRID = 33  # values of L0 over which a difference is averaged

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its t interval; `low` and `high` are NaN where one value says nothing of the spread."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Curve:
    """One seed's runs of one mask setting: a metric against L0.

    Attributes:
        sparsity_K: which sparsity each is, increasing.
        l0_K, value_K: of the runs.
    """

    sparsity_K: NDArray[np.int64]
    l0_K: Array
    value_K: Array

    def only(self, sparsities: NDArray[np.int64]) -> "Curve":
        kept_K = np.isin(self.sparsity_K, sparsities)
        return Curve(self.sparsity_K[kept_K], self.l0_K[kept_K], self.value_K[kept_K])


@dataclass(frozen=True)
class Difference:
    """Masked minus unmasked at matched L0.

    Attributes:
        estimate: mean over the seeds.
        low, high: 95 % interval; NaN where there is none.
        p: two-sided; NaN where there is none. `p_adjusted`: after Holm's correction, where one was made.
        seeds: seeds paired, of `seeds_run` that were trained at all.
        l0_low, l0_high: between which L0s, or at which.
        unmasked: the unmasked mean there.
        reason: why nothing can be said; empty where something can.
    """

    estimate: float
    low: float
    high: float
    p: float
    seeds: int
    l0_low: float
    l0_high: float
    unmasked: float
    reason: str = ""
    p_adjusted: float = math.nan
    seeds_run: int = 0

    @property
    def detected(self) -> bool:
        return self.p_adjusted < 1 - LEVEL


def t_interval(values: Sequence[float] | Array) -> Interval:
    """The mean of these values with its 95 % t interval."""
    sample = np.asarray(values, dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if len(sample) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(sample.mean())
    if len(sample) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(sample) - 1) * sample.std(ddof=1) / math.sqrt(len(sample)))
    return Interval(mean, mean - half, mean + half, len(sample))


def nothing(reason: str, seeds: int = 0) -> Difference:
    nan = math.nan
    return Difference(nan, nan, nan, nan, seeds, nan, nan, nan, reason)


def averaged_difference(unmasked: Mapping[Any, Curve], masked: Mapping[Any, Curve]) -> Difference:
    """The difference averaged over all L0s that every seed reaches with and without masking (evenly in log L0).

    Args:
        unmasked, masked: for each seed its curve. Seeds that only one of them has are left out.
    """
    return replace(_averaged(_pairs(unmasked, masked)), seeds_run=len({*unmasked, *masked}))


def _averaged(pairs: "list[Pair]") -> Difference:
    if not pairs:
        return nothing("no seed was trained both with and without masking")
    if _same_l0(pairs):
        return _averaged_at_equal_sparsity(pairs)
    pairs = _enough(pairs)
    if max(len(a.l0_K) for a, _ in pairs) < 2:
        gap = np.mean([b.l0_K[0] / a.l0_K[0] for a, b in pairs if len(a.l0_K)] or [math.nan])
        return nothing(
            f"L0 is {gap:.2f} times the unmasked and there is one sparsity: sweep the sparsity too", len(pairs)
        )
    low, high, pairs = _widest_range(pairs)
    if not low < high:
        return nothing("the L0s reached with and without masking do not overlap", len(pairs))
    l0_G = np.exp(np.linspace(math.log(low), math.log(high), _GRID))
    return replace(_judge([_differences(pair, l0_G).mean(1) for pair in pairs], pairs, l0_G), l0_low=low, l0_high=high)


def differences_at(unmasked: Mapping[Any, Curve], masked: Mapping[Any, Curve], l0_G: Array) -> list[Difference]:
    """The difference at each of these L0s, over the seeds whose curves both contain it; nothing is extrapolated."""
    pairs = _pairs(unmasked, masked)
    if not _same_l0(pairs):
        pairs = _enough(pairs)
    found: list[Difference] = []
    for l0 in l0_G:
        here = [pair for pair in pairs if all(curve.l0_K.min() <= l0 <= curve.l0_K.max() for curve in pair)]
        if here:
            at_G = np.array([l0])
            found.append(_judge([_differences(pair, at_G)[:, 0] for pair in here], here, at_G))
        else:
            found.append(replace(nothing(OUTSIDE), l0_low=float(l0), l0_high=float(l0)))
    return found


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """Adjusts the p values for there being several, after Holm (1979): with 95 % none of all claims made is wrong."""
    tested = sorted((i for i, item in enumerate(differences) if not math.isnan(item.p)), key=lambda i: differences[i].p)
    adjusted = list(differences)
    largest = 0.0
    for rank, i in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * differences[i].p))
        adjusted[i] = replace(differences[i], p_adjusted=largest)
    return adjusted


def interpolate(curve: Curve, l0_G: Array, smooth: bool) -> Array:
    """The metric at these L0s, in log L0: by straight lines, or by a monotone cubic (PCHIP); NaN outside the runs."""
    order_K = np.argsort(curve.l0_K, kind="stable")
    x_K, first_K = np.unique(np.log(curve.l0_K[order_K]), return_index=True)
    counts_K = np.diff(np.append(first_K, len(order_K)))
    y_K = np.add.reduceat(curve.value_K[order_K], first_K) / counts_K  # runs of the same L0 count as their mean
    x_G = np.log(l0_G)
    for end in (x_K[0], x_K[-1]):
        x_G = np.where(np.isclose(x_G, end, rtol=0, atol=1e-9), end, x_G)  # a rounding error is no extrapolation
    if len(x_K) == 1:
        return np.where(x_G == x_K[0], y_K[0], np.nan)
    if smooth and len(x_K) > 2:
        return np.asarray(PchipInterpolator(x_K, y_K, extrapolate=False)(x_G))
    return np.interp(x_G, x_K, y_K, left=np.nan, right=np.nan)


Pair = tuple[Curve, Curve]


def _pairs(unmasked: Mapping[Any, Curve], masked: Mapping[Any, Curve]) -> list[Pair]:
    """The two curves of each seed that has both, at the sparsities that both have."""
    pairs: list[Pair] = []
    for seed in unmasked:
        if seed in masked:
            common = np.intersect1d(unmasked[seed].sparsity_K, masked[seed].sparsity_K)
            if len(common):
                pairs.append((unmasked[seed].only(common), masked[seed].only(common)))
    return pairs


def _same_l0(pairs: list[Pair]) -> bool:
    return all(bool(np.all(np.abs(np.log(b.l0_K / a.l0_K)) <= SAME_L0)) for a, b in pairs)


def _enough(pairs: list[Pair]) -> list[Pair]:
    """Leaves out seeds with too few sparsities to interpolate well, where two others remain."""
    whole = [pair for pair in pairs if len(pair[0].l0_K) >= ENOUGH_SPARSITIES]
    if len(whole) >= 2:
        return whole
    return [pair for pair in pairs if len(pair[0].l0_K) >= 2] or pairs


def _averaged_at_equal_sparsity(pairs: list[Pair]) -> Difference:
    """Where masking leaves L0 as it is: runs of equal sparsity are compared as they are."""
    most = max(len(a.l0_K) for a, _ in pairs)
    whole = [pair for pair in pairs if len(pair[0].l0_K) == most]
    pairs = whole if len(whole) >= 2 else pairs
    common = pairs[0][0].sparsity_K
    for a, _ in pairs:
        common = np.intersect1d(common, a.sparsity_K)
    if len(common) == 0:
        return nothing("no sparsity was trained with all seeds", len(pairs))
    pairs = [(a.only(common), b.only(common)) for a, b in pairs]
    values = [float((b.value_K - a.value_K).mean()) for a, b in pairs]
    judged = _judge([np.array([value, value]) for value in values], pairs, None)
    l0 = np.concatenate([a.l0_K for a, _ in pairs])
    return replace(judged, l0_low=float(l0.min()), l0_high=float(l0.max()))


def _widest_range(pairs: list[Pair]) -> tuple[float, float, list[Pair]]:
    """The L0s that all seeds reach; while there are none, the seed in whose absence most are is left out."""

    def bounds(these: list[Pair]) -> tuple[float, float]:
        curves = [curve for pair in these for curve in pair]
        return max(float(c.l0_K.min()) for c in curves), min(float(c.l0_K.max()) for c in curves)

    low, high = bounds(pairs)
    while not low < high and len(pairs) > 1:
        fewer = [pairs[:i] + pairs[i + 1 :] for i in range(len(pairs))]
        pairs = max(fewer, key=lambda these: math.log(bounds(these)[1] / bounds(these)[0]))
        low, high = bounds(pairs)
    return low, high, pairs


def _differences(pair: Pair, l0_G: Array) -> Array:
    """Masked minus unmasked, by both ways of interpolation: (2, G)."""
    unmasked, masked = pair
    return np.stack(
        [interpolate(masked, l0_G, smooth) - interpolate(unmasked, l0_G, smooth) for smooth in (False, True)]
    )


def _judge(difference_of_seed: Sequence[Array], pairs: list[Pair], l0_G: Array | None) -> Difference:
    """What the seeds' differences say. The interval covers what either way of interpolation gives, and p is the larger:
    where the two disagree, the data do not tell."""
    difference_2S = np.stack(difference_of_seed, axis=1)
    ways = [t_interval(difference_S) for difference_S in difference_2S]
    estimate = float(np.mean([way.mean for way in ways]))
    unmasked = float(
        np.mean([a.value_K.mean() if l0_G is None else interpolate(a, l0_G, smooth=True).mean() for a, _ in pairs])
    )
    at = (math.nan, math.nan) if l0_G is None else (float(l0_G[0]), float(l0_G[-1]))
    seeds = len(pairs)
    if seeds < 2:
        only = nothing("one seed: the spread between seeds is not known", seeds)
        return replace(only, estimate=estimate, l0_low=at[0], l0_high=at[1], unmasked=unmasked)
    low, high = min(way.low for way in ways), max(way.high for way in ways)
    spread_2 = difference_2S.std(axis=1, ddof=1)
    judged = Difference(estimate, low, high, math.nan, seeds, *at, unmasked)
    scale = float(np.abs(difference_2S).max())
    if not spread_2.max() > 1e-12 * max(scale, 1e-300):
        if scale == 0:
            return replace(judged, p=1.0)
        return replace(judged, low=math.nan, high=math.nan, reason="all seeds differ by the very same amount")
    agree = ways[0].mean * ways[1].mean > 0
    tests: list[Any] = [stats.ttest_1samp(difference_S, 0.0) for difference_S in difference_2S]
    p = max(float(test.pvalue) for test in tests) if agree else 1.0
    if l0_G is not None and min(len(a.l0_K) for a, _ in pairs) < ENOUGH_SPARSITIES and not _same_l0(pairs):
        reason = f"fewer than {ENOUGH_SPARSITIES} sparsities: how the metric bends with L0 between them is not known"
        return replace(judged, p=math.nan, reason=reason)
    return replace(judged, p=p)
