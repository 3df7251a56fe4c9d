"""What a comparison could have shown, against drawn samples."""

import math

import numpy as np
import pytest
from scipy import stats

from masked_sae.report.power import POWER, TARGET, power_of


def share_detected(effect: float, spread: float, count: int, alpha: float) -> float:
    """Of 20,000 drawn samples, in how many SciPy's t test finds the effect, in its direction."""
    drawn = np.random.default_rng(count).normal(effect, spread, (20_000, count))
    test = stats.ttest_1samp(drawn, 0.0, axis=1)
    return float(((test.pvalue < alpha) & (test.statistic > 0)).mean())


@pytest.mark.parametrize(("count", "alpha"), [(2, 0.05), (3, 0.003), (5, 0.05), (12, 0.01), (40, 0.05 / 16)])
@pytest.mark.parametrize("spread", [0.09, 30.0])
def test_the_smallest_change_is_detected_four_times_in_five(count: int, alpha: float, spread: float) -> None:
    found = power_of(spread, count, alpha)
    error = math.sqrt(POWER * (1 - POWER) / 20_000)
    assert abs(share_detected(found.smallest, spread, count, alpha) - POWER) < 5 * error


@pytest.mark.parametrize("spread", [0.005, 0.03, 0.09])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 16])
def test_so_many_text_orders_and_no_fewer_would_show_the_target(spread: float, alpha: float) -> None:
    needed = power_of(spread, 5, alpha).needed
    assert needed is not None
    assert power_of(spread, needed, alpha).smallest <= TARGET
    assert needed == 2 or power_of(spread, needed - 1, alpha).smallest > TARGET


def test_what_no_number_of_seeds_would_show_is_told_as_such() -> None:
    assert power_of(1e3, 5, 0.05).needed is None
    assert power_of(1e-9, 5, 0.05).needed == 2
