"""Paired differences at matched L0: known effects are found, absent ones are not, and intervals cover."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from masked_sae.report.repetitions import Repetition, Repetitions
from masked_sae.report.statistics import (
    OUTSIDE,
    Curve,
    Difference,
    averaged_difference,
    differences_at,
    holm,
    interpolate,
    nothing,
    t_interval,
)

KS = np.array([8.0, 16.0, 32.0])
FIVE = tuple(Repetition(seed, seed) for seed in range(5))
Metric = Callable[[NDArray[np.float64]], NDArray[np.float64]]
SHAPES: dict[str, Metric] = {  # metrics against L0: saturating, logarithmic, falling, S-shaped
    "saturating": lambda l0: 1 - 0.55 * (l0 / 8) ** -0.35,
    "logarithmic": lambda l0: 0.4 + 0.15 * np.log(l0),
    "falling": lambda l0: 0.4 * np.exp(-l0 / 15),
    "s-shaped": lambda l0: 1 / (1 + np.exp(-2 * (np.log(l0) - 2.7))),
}


def curve(metric: Metric, l0_K: NDArray[np.float64], offset: float = 0.0) -> Curve:
    return Curve(np.arange(len(l0_K)), l0_K, metric(l0_K) + offset)


def alone(seed: int) -> Repetition:
    """A seed with a text order of its own."""
    return Repetition(seed, seed)


def curves(
    metric: Metric,
    rng: np.random.Generator,
    *,
    repetitions: Sequence[Repetition] = FIVE,
    shift: float = 1.0,
    effect: float = 0.0,
    noise: float = 0.01,
    offsets: Mapping[int, float] | None = None,
    ks: NDArray[np.float64] = KS,
) -> dict[Repetition, Curve]:
    """Runs of one mask setting: L0 is `shift` times k, give or take; noise on every run, offsets by data seed."""
    made: dict[Repetition, Curve] = {}
    for one in repetitions:
        l0_K = ks * shift * np.exp(rng.normal(0, 0.02, len(ks)))
        offset = 0.0 if offsets is None else offsets[one.data_seed]
        made[one] = Curve(np.arange(len(ks)), l0_K, metric(l0_K) + effect + offset + rng.normal(0, noise, len(ks)))
    return made


def test_a_t_interval_is_the_textbook_one() -> None:
    found = t_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * math.sqrt(5 / 3) / 2
    assert found.count == 4 and found.mean == 2.5
    assert (found.low, found.high) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-6)
    assert math.isnan(t_interval([1.0]).low) and t_interval([]).count == 0
    assert t_interval([1.0, math.nan, 3.0]).count == 2


def test_interpolation_is_in_log_l0_and_never_goes_beyond_the_runs() -> None:
    line = curve(SHAPES["logarithmic"], KS)
    l0_G = np.array([7.9, 8.0, 12.0, 31.0, 32.1])
    for smooth in (False, True):
        found = interpolate(line, l0_G, smooth)
        assert np.isnan(found[[0, 4]]).all()
        np.testing.assert_allclose(found[1:4], SHAPES["logarithmic"](l0_G[1:4]), rtol=1e-12)


def test_runs_are_taken_in_the_order_of_l0_and_ties_as_their_mean() -> None:
    mixed = Curve(np.arange(4), np.array([32.0, 8.0, 8.0, 16.0]), np.array([4.0, 1.0, 3.0, 3.0]))
    np.testing.assert_allclose(interpolate(mixed, np.array([8.0, 16.0, 32.0]), smooth=False), [2.0, 3.0, 4.0])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_known_effect_is_found_at_its_size(shape: str) -> None:
    rng = np.random.default_rng(0)
    unmasked = curves(SHAPES[shape], rng, noise=0.003)
    masked = curves(SHAPES[shape], rng, noise=0.003, shift=1.4, effect=-0.05)
    found = averaged_difference(unmasked, masked)
    assert len(found.paired.those) == 5 and found.p < 0.001
    assert found.low < -0.05 < found.high < 0
    assert 11 < found.l0_low < 12.5 and 30 < found.l0_high < 33


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [1.1, 1.5])
def test_a_change_of_l0_alone_is_not_taken_for_a_change_of_the_metric(shape: str, shift: float) -> None:
    """At equal k these would differ by far: the metric bends, and only straight lines and few runs tell how."""
    rng = np.random.default_rng(1)
    unmasked, masked = curves(SHAPES[shape], rng, noise=0.002), curves(SHAPES[shape], rng, noise=0.002, shift=shift)
    at_equal_k = np.mean([masked[seed].value_K - unmasked[seed].value_K for seed in unmasked])
    found = averaged_difference(unmasked, masked)
    assert abs(found.estimate) < 0.2 * abs(at_equal_k)
    assert found.p > 0.05


def test_what_seeds_share_cancels_in_pairs() -> None:
    rng = np.random.default_rng(2)
    offsets = dict(enumerate(rng.normal(0, 0.5, 5)))
    unmasked = curves(SHAPES["saturating"], rng, noise=0.001, offsets=offsets)
    masked = curves(SHAPES["saturating"], rng, noise=0.001, offsets=offsets, effect=0.02, shift=1.2)
    found = averaged_difference(unmasked, masked)
    assert found.low < 0.02 < found.high and found.high - found.low < 0.01
    reordered = averaged_difference(dict(reversed(unmasked.items())), masked)
    assert reordered.estimate == pytest.approx(found.estimate, abs=1e-12)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    average = at_one = 0
    repetitions = 200
    for _ in range(repetitions):
        unmasked = curves(SHAPES["saturating"], rng)
        masked = curves(SHAPES["saturating"], rng, shift=1.3, effect=0.03)
        found = averaged_difference(unmasked, masked)
        average += found.low <= 0.03 <= found.high
        (single,) = differences_at(unmasked, masked, np.array([20.0]))
        at_one += single.low <= 0.03 <= single.high
    # 95 % give or take two and a half standard errors of 200 tries; over it, for the interval spans two interpolations
    assert 0.91 <= average / repetitions <= 0.99
    assert 0.91 <= at_one / repetitions <= 0.995


@pytest.mark.slow
def test_without_an_effect_a_family_of_comparisons_seldom_makes_any_claim() -> None:
    rng = np.random.default_rng(4)
    families = 60
    claimed = 0
    for _ in range(families):
        unmasked = curves(SHAPES["saturating"], rng)
        found = [averaged_difference(unmasked, curves(SHAPES["saturating"], rng, shift=s)) for s in (1.1, 1.2, 1.4)]
        claimed += any(difference.detected for difference in holm(found))
    assert claimed / families <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / families)


def test_one_seed_says_nothing() -> None:
    found = averaged_difference(
        {alone(0): curve(SHAPES["saturating"], KS)}, {alone(0): curve(SHAPES["saturating"], 1.2 * KS, 0.5)}
    )
    assert "one seed" in found.reason
    assert math.isnan(found.p) and math.isnan(found.low) and found.estimate == pytest.approx(0.5, abs=0.01)
    assert not holm([found])[0].detected


def test_seeds_without_their_pair_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(5)
    unmasked, masked = curves(SHAPES["saturating"], rng), curves(SHAPES["saturating"], rng, shift=1.2)
    del unmasked[alone(0)], masked[alone(4)]
    found = averaged_difference(unmasked, masked)
    assert (len(found.paired.those), len(found.run.those)) == (3, 5)
    assert "no seed" in averaged_difference({alone(0): unmasked[alone(1)]}, {alone(1): masked[alone(1)]}).reason


def test_a_member_that_is_missing_on_one_side_counts_on_neither() -> None:
    rng = np.random.default_rng(6)
    ks = np.array([8.0, 16.0, 32.0, 64.0])
    unmasked = curves(SHAPES["saturating"], rng, ks=ks, noise=0.0)
    masked = curves(SHAPES["saturating"], rng, ks=ks, noise=0.0, shift=1.2)
    masked[alone(0)] = masked[alone(0)].only(np.array([0, 1, 3]))
    found = averaged_difference(unmasked, masked)
    assert len(found.paired.those) == 5 and abs(found.estimate) < 0.002
    masked[alone(0)] = masked[alone(0)].only(
        np.array([0, 3])
    )  # too few to know the bend: this seed goes, the others stay
    assert len(averaged_difference(unmasked, masked).paired.those) == 4


def test_two_sparsities_do_not_carry_a_claim() -> None:
    rng = np.random.default_rng(7)
    ks = np.array([8.0, 32.0])
    unmasked = curves(SHAPES["saturating"], rng, ks=ks, noise=0.001)
    masked = curves(SHAPES["saturating"], rng, ks=ks, noise=0.001, shift=1.3, effect=0.1)
    found = averaged_difference(unmasked, masked)
    assert "sparsities" in found.reason and math.isnan(found.p) and found.estimate > 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_two_near_sparsities_carry_a_claim_where_l0s_nearly_match(shape: str) -> None:
    """As they do where thresholds are calibrated to L0: the shift makes less of a difference than noise does."""
    rng = np.random.default_rng(12)
    ks = np.array([8.0, 16.0])
    claimed = 0
    for _ in range(40):
        unmasked = {one: curve(SHAPES[shape], ks, rng.normal(0, 0.002)) for one in FIVE}
        shifted = {one: curve(SHAPES[shape], 1.01 * ks, rng.normal(0, 0.002)) for one in FIVE}
        found = averaged_difference(unmasked, shifted)
        assert math.isfinite(found.p) and not found.reason
        claimed += found.p < 0.05
    assert claimed / 40 <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 40)
    further = {one: curve(SHAPES[shape], 1.03 * ks) for one in FIVE}
    assert "sparsities" in averaged_difference(unmasked, further).reason
    apart = np.array([8.0, 32.0])
    sides = [{one: curve(SHAPES[shape], shift * apart, rng.normal()) for one in FIVE} for shift in (1.0, 1.01)]
    assert "sparsities" in averaged_difference(*sides).reason


def test_one_sparsity_is_compared_where_l0_is_the_same_and_only_there() -> None:
    rng = np.random.default_rng(8)
    k = np.array([16.0])
    covered = 0
    for _ in range(300):
        unmasked = {alone(seed): curve(SHAPES["saturating"], k, rng.normal(0, 0.01)) for seed in range(5)}
        same = {alone(seed): curve(SHAPES["saturating"], k, 0.05 + rng.normal(0, 0.01)) for seed in range(5)}
        found = averaged_difference(unmasked, same)
        covered += found.low < 0.05 < found.high
        assert (found.l0_low, found.l0_high) == (16.0, 16.0)
    assert abs(covered / 300 - 0.95) < 2.5 * math.sqrt(0.05 * 0.95 / 300)
    other = {alone(seed): curve(SHAPES["saturating"], 1.3 * k, 0.05) for seed in range(5)}
    refused = averaged_difference(unmasked, other)
    assert "1.30 times" in refused.reason and math.isnan(refused.estimate)


def test_ranges_that_do_not_meet_are_not_compared() -> None:
    rng = np.random.default_rng(9)
    found = averaged_difference(curves(SHAPES["falling"], rng), curves(SHAPES["falling"], rng, shift=8.0))
    assert "do not overlap" in found.reason and math.isnan(found.estimate)


def test_l0s_that_one_side_does_not_reach_are_outside() -> None:
    rng = np.random.default_rng(10)
    unmasked, masked = curves(SHAPES["falling"], rng), curves(SHAPES["falling"], rng, shift=1.5)
    below, inside, above = differences_at(unmasked, masked, np.array([9.0, 20.0, 40.0]))
    assert below.reason == above.reason == OUTSIDE and math.isnan(below.estimate)
    assert len(inside.paired.those) == 5 and not inside.reason


def test_equal_differences_of_all_seeds_are_no_sample() -> None:
    unmasked = {alone(seed): curve(SHAPES["saturating"], KS) for seed in range(3)}
    shifted = {alone(seed): curve(SHAPES["saturating"], KS, 0.1) for seed in range(3)}
    found = averaged_difference(unmasked, shifted)
    assert "very same" in found.reason and math.isnan(found.p)
    assert averaged_difference(unmasked, unmasked).p == 1.0


def test_holm_is_the_hand_computed_one_and_passes_over_what_was_not_tested() -> None:
    def tested(p: float) -> Difference:
        return Difference(1.0, 0.5, 1.5, p, Repetitions(FIVE), 8.0, 32.0, 0.0)

    found = holm([tested(0.04), nothing("one seed"), tested(0.01), tested(0.03)])
    assert [round(difference.p_adjusted, 12) for difference in found if not math.isnan(difference.p)] == [
        0.06,
        0.03,
        0.06,
    ]
    assert [difference.detected for difference in found] == [False, False, True, False]
    assert math.isnan(found[1].p_adjusted)


def test_p_is_that_of_the_paired_t_test_where_nothing_is_interpolated() -> None:
    rng = np.random.default_rng(11)
    unmasked = {alone(seed): curve(SHAPES["saturating"], KS, rng.normal(0, 0.1)) for seed in range(6)}
    masked = {alone(seed): curve(SHAPES["saturating"], KS, rng.normal(0.1, 0.1)) for seed in range(6)}
    found = averaged_difference(unmasked, masked)
    a, b = ([series[alone(seed)].value_K.mean() for seed in range(6)] for series in (unmasked, masked))
    expected = stats.ttest_rel(b, a)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
