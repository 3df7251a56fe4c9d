"""What a comparison could have shown: the power of the paired t test over text orders."""

import math
from dataclasses import dataclass
from functools import cache

from scipy import optimize, stats

POWER = 0.8
TARGET = 0.02  # the change of full absorption that secondary accounts of the paper report
_MOST = 100_000  # text orders; more are not told


@dataclass(frozen=True)
class Power:
    """Attributes:
    smallest: the change that would have been detected, in its direction, with a probability of `POWER`.
    needed: so many text orders would detect a change of `TARGET` as surely; None: more than can be told.
    """

    smallest: float
    needed: int | None


def power_of(spread: float, count: int, alpha: float) -> Power:
    """The spread is taken for known, though it is estimated from the very same text orders.

    Args:
        spread: standard deviation between text orders, more than 0.
        count: of text orders, 2 or more.
        alpha: two-sided level at which a difference counts as detected.
    """
    return Power(spread / math.sqrt(count) * _shift(count, alpha), _needed(spread, alpha))


@cache  # a page asks for the same counts at one level for all its comparisons
def _shift(count: int, alpha: float) -> float:
    """The noncentrality at which the test has the power."""
    degrees = count - 1
    critical = float(stats.t.ppf(1 - alpha / 2, degrees))

    def lacking(shift: float) -> float:
        return float(stats.nct.sf(critical, degrees, shift)) - POWER

    return float(optimize.root_scalar(lacking, bracket=(0.0, 10 * critical)).root)


def _needed(spread: float, alpha: float) -> int | None:
    def suffices(count: int) -> bool:
        return spread / math.sqrt(count) * _shift(count, alpha) <= TARGET

    high = 2
    while not suffices(high):
        high *= 2
        if high > _MOST:
            return None
    low = high // 2  # which does not suffice, or is a single one
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high
