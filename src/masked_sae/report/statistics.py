"""What masking changed at matched L0: paired differences over text orders, with intervals.

Runs of equal k differ in L0, and most metrics move with L0. So for each repetition (data seed and seed) the metric is
interpolated along its sparsity axis, in log L0, for the masked and for the unmasked runs; their difference at the same
L0 is one observation. Those of one text order are averaged, and the text orders are the sample, each counting once,
however many seeds it has: seeds that share their text are no independent evidence on it. Where every seed has a text
order of its own, the seeds are the sample.

Axes: K sparsities, G values of L0, C text orders.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.interpolate import PchipInterpolator

from masked_sae.report.repetitions import NONE, Repetition, Repetitions, text_order_means

LEVEL = 0.95
SAME_L0 = 0.005  # L0s that differ by less than this share are the same: nothing is interpolated
ENOUGH_SPARSITIES = 3  # two points do not tell how the curve bends between them, which does not matter where
NEAR_L0, NEAR_SPARSITIES = 0.02, 2.2  # L0s match to this share on average, and sparsities are at most this factor apart
OUTSIDE = "outside the range of L0 measured"
_ONE_SEED = "one seed: the spread between seeds is not known"
_ONE_TEXT_ORDER = "one text order: the spread between text orders is not known"
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
    """One repetition's runs of one mask setting: a metric against L0.

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
        estimate: mean over the text orders of the means over their seeds.
        low, high: 95 % interval; NaN where there is none.
        p: two-sided; NaN where there is none. `p_adjusted`: after Holm's correction, where one was made.
        spread: standard deviation between text orders; NaN where there is none.
        paired: repetitions that were compared, of `run` that were trained at all.
        l0_low, l0_high: between which L0s, or at which.
        unmasked: the unmasked mean there.
        reason: why nothing can be said; empty where something can.
    """

    estimate: float
    low: float
    high: float
    p: float
    paired: Repetitions
    l0_low: float
    l0_high: float
    unmasked: float
    reason: str = ""
    p_adjusted: float = math.nan
    run: Repetitions = NONE
    spread: float = math.nan

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


@dataclass(frozen=True)
class Pair:
    """The curves of one repetition, at the sparsities that both have."""

    of: Repetition
    unmasked: Curve
    masked: Curve

    @property
    def curves(self) -> tuple[Curve, Curve]:
        return self.unmasked, self.masked

    @property
    def sparsities(self) -> NDArray[np.int64]:
        return self.unmasked.sparsity_K

    def only(self, sparsities: NDArray[np.int64]) -> "Pair":
        return Pair(self.of, self.unmasked.only(sparsities), self.masked.only(sparsities))


Curves = Mapping[Repetition, Curve]


def nothing(reason: str, paired: Sequence[Pair] = ()) -> Difference:
    nan = math.nan
    return Difference(nan, nan, nan, nan, _repetitions(paired), nan, nan, nan, reason)


def averaged_difference(unmasked: Curves, masked: Curves) -> Difference:
    """The difference averaged over all L0s that every repetition reaches with and without masking (evenly in log L0).

    Args:
        unmasked, masked: for each repetition its curve. Those that only one of them has are left out.
    """
    run = Repetitions(tuple(dict.fromkeys([*unmasked, *masked])))
    return replace(_averaged(_pairs(unmasked, masked)), run=run)


def _averaged(pairs: list[Pair]) -> Difference:
    if not pairs:
        return nothing("no seed was trained both with and without masking")
    if _same_l0(pairs):
        return _averaged_at_equal_sparsity(pairs)
    pairs = _enough(pairs)
    if max(len(pair.sparsities) for pair in pairs) < 2:
        gap = np.mean([pair.masked.l0_K[0] / pair.unmasked.l0_K[0] for pair in pairs])
        return nothing(f"L0 is {gap:.2f} times the unmasked and there is one sparsity: sweep the sparsity too", pairs)
    low, high, pairs = _widest_range(pairs)
    if not low < high:
        return nothing("the L0s reached with and without masking do not overlap", pairs)
    l0_G = np.exp(np.linspace(math.log(low), math.log(high), _GRID))
    return replace(_judge([_differences(pair, l0_G).mean(1) for pair in pairs], pairs, l0_G), l0_low=low, l0_high=high)


def differences_at(unmasked: Curves, masked: Curves, l0_G: Array) -> list[Difference]:
    """The difference at each of these L0s, over the repetitions whose curves both contain it; nothing is
    extrapolated."""
    pairs = _pairs(unmasked, masked)
    if not _same_l0(pairs):
        pairs = _enough(pairs)
    found: list[Difference] = []
    for l0 in l0_G:
        here = [pair for pair in pairs if all(curve.l0_K.min() <= l0 <= curve.l0_K.max() for curve in pair.curves)]
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


def _repetitions(pairs: Sequence[Pair]) -> Repetitions:
    return Repetitions(tuple(pair.of for pair in pairs))


def _pairs(unmasked: Curves, masked: Curves) -> list[Pair]:
    """Of each repetition that has both."""
    pairs: list[Pair] = []
    for one in unmasked:
        if one in masked:
            common = np.intersect1d(unmasked[one].sparsity_K, masked[one].sparsity_K)
            if len(common):
                pairs.append(Pair(one, unmasked[one].only(common), masked[one].only(common)))
    return pairs


def _same_l0(pairs: list[Pair]) -> bool:
    return all(bool(np.all(np.abs(np.log(p.masked.l0_K / p.unmasked.l0_K)) <= SAME_L0)) for p in pairs)


def _enough(pairs: list[Pair]) -> list[Pair]:
    """Leaves out repetitions with too few sparsities to interpolate well, where two other text orders remain."""
    whole = [pair for pair in pairs if len(pair.sparsities) >= ENOUGH_SPARSITIES]
    if _repetitions(whole).text_orders >= 2:
        return whole
    return [pair for pair in pairs if len(pair.sparsities) >= 2] or pairs


def _averaged_at_equal_sparsity(pairs: list[Pair]) -> Difference:
    """Where masking leaves L0 as it is: runs of equal sparsity are compared as they are."""
    most = max(len(pair.sparsities) for pair in pairs)
    whole = [pair for pair in pairs if len(pair.sparsities) == most]
    pairs = whole if _repetitions(whole).text_orders >= 2 else pairs
    common = pairs[0].sparsities
    for pair in pairs:
        common = np.intersect1d(common, pair.sparsities)
    if len(common) == 0:
        return nothing("no sparsity was trained with all seeds", pairs)
    pairs = [pair.only(common) for pair in pairs]
    values = [float((pair.masked.value_K - pair.unmasked.value_K).mean()) for pair in pairs]
    judged = _judge([np.array([value, value]) for value in values], pairs, None)
    l0 = np.concatenate([pair.unmasked.l0_K for pair in pairs])
    return replace(judged, l0_low=float(l0.min()), l0_high=float(l0.max()))


def _widest_range(pairs: list[Pair]) -> tuple[float, float, list[Pair]]:
    """The L0s that all repetitions reach; while there are none, the one in whose absence most are is left out."""

    def bounds(these: list[Pair]) -> tuple[float, float]:
        curves = [curve for pair in these for curve in pair.curves]
        return max(float(c.l0_K.min()) for c in curves), min(float(c.l0_K.max()) for c in curves)

    low, high = bounds(pairs)
    while not low < high and len(pairs) > 1:
        fewer = [pairs[:i] + pairs[i + 1 :] for i in range(len(pairs))]
        pairs = max(fewer, key=lambda these: math.log(bounds(these)[1] / bounds(these)[0]))
        low, high = bounds(pairs)
    return low, high, pairs


def _differences(pair: Pair, l0_G: Array) -> Array:
    """Masked minus unmasked, by both ways of interpolation: (2, G)."""
    ways = [
        interpolate(pair.masked, l0_G, smooth) - interpolate(pair.unmasked, l0_G, smooth) for smooth in (False, True)
    ]
    return np.stack(ways)


def _judge(difference_of_pair: Sequence[Array], pairs: list[Pair], l0_G: Array | None) -> Difference:
    """What the text orders' differences say: a t interval over the means of each, as many degrees of freedom as there
    are text orders, less one.

    The interval covers what either way of interpolation gives, and p is the larger: where the two disagree, the data do
    not tell.
    """
    paired = _repetitions(pairs)
    data_seeds = [one.data_seed for one in paired.those]
    difference_2C = np.ascontiguousarray(text_order_means(np.stack(difference_of_pair), data_seeds).T)
    ways = [t_interval(difference_C) for difference_C in difference_2C]
    estimate = float(np.mean([way.mean for way in ways]))
    levels = [a.value_K.mean() if l0_G is None else interpolate(a, l0_G, smooth=True).mean() for a in _unmasked(pairs)]
    unmasked = float(text_order_means(levels, data_seeds).mean())
    at = (math.nan, math.nan) if l0_G is None else (float(l0_G[0]), float(l0_G[-1]))
    if paired.text_orders < 2:
        only = nothing(_ONE_SEED if len(pairs) == 1 else _ONE_TEXT_ORDER, pairs)
        return replace(only, estimate=estimate, l0_low=at[0], l0_high=at[1], unmasked=unmasked)
    low, high = min(way.low for way in ways), max(way.high for way in ways)
    spread_2 = difference_2C.std(axis=1, ddof=1)
    judged = Difference(estimate, low, high, math.nan, paired, *at, unmasked, spread=float(spread_2.max()))
    scale = float(np.abs(difference_2C).max())
    if not spread_2.max() > 1e-12 * max(scale, 1e-300):
        if scale == 0:
            return replace(judged, p=1.0)
        same = "seeds" if paired.seeds_alone else "text orders"
        return replace(judged, low=math.nan, high=math.nan, reason=f"all {same} differ by the very same amount")
    agree = ways[0].mean * ways[1].mean > 0
    tests: list[Any] = [stats.ttest_1samp(difference_C, 0.0) for difference_C in difference_2C]
    p = max(float(test.pvalue) for test in tests) if agree else 1.0
    if l0_G is not None and _rests_on_the_bend(pairs) and not _same_l0(pairs):
        reason = f"fewer than {ENOUGH_SPARSITIES} sparsities: how the metric bends with L0 between them is not known"
        return replace(judged, p=math.nan, reason=reason)
    return replace(judged, p=p)


def _rests_on_the_bend(pairs: Sequence[Pair]) -> bool:
    """Whether how the metric bends between too few sparsities may make what is found. Straight lines between the same
    two sparsities err alike on both sides, but for what masking shifts L0 between these.
    """
    fewest = min(len(pair.sparsities) for pair in pairs)
    few = [pair for pair in pairs if len(pair.sparsities) == 2]
    if fewest != 2:
        return fewest < ENOUGH_SPARSITIES
    shift_K = np.mean([np.log(pair.masked.l0_K / pair.unmasked.l0_K) for pair in few], axis=0)
    widest = max(float(pair.unmasked.l0_K.max() / pair.unmasked.l0_K.min()) for pair in few)
    return bool(np.abs(shift_K).max() > NEAR_L0) or widest > NEAR_SPARSITIES


def _unmasked(pairs: Sequence[Pair]) -> list[Curve]:
    return [pair.unmasked for pair in pairs]
