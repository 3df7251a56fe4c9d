"""What a search varies, read from Hydra's words for a sweep: `0,0.1,0.3`, `range(…)`, `interval(…)`, `tag(log, …)`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from masked_sae.errors import InputError
from masked_sae.runs.identity import HOW, is_part_of

_NOT_SEARCHED = (*HOW, "name", "objective", "eval", "hydra")
_SEEDS = ("seed", "data.seed")


@dataclass(frozen=True)
class Space:
    """Attributes:
    searched: by key.
    words: the same as they were given.
    fixed: settings that all members share, as they stand on a command line.
    """

    searched: Mapping[str, BaseDistribution]
    words: Mapping[str, str]
    fixed: tuple[str, ...]

    def overrides(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Of a member, as they stand on a command line."""
        return *self.fixed, *(f"{key}={shown_value(values[key])}" for key in self.searched)

    def first(self) -> dict[str, Any]:
        """The lowest of each, or the first: for checks before anything is drawn."""
        return {key: _first(one) for key, one in self.searched.items()}

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The values of a trial, those that were drawn before a kill included."""
        return {key: _suggest(trial, key, one) for key, one in self.searched.items()}


def read_space(parsed: Sequence[Override]) -> Space:
    """Of several words for one key the last counts.

    Raises:
        InputError: nothing is searched, or what says how and where, or chance.
    """
    searched: dict[str, BaseDistribution] = {}
    words: dict[str, str] = {}
    fixed: dict[str, str] = {}
    for one in parsed:
        key = one.get_key_element()
        for holder in (searched, words, fixed):
            holder.pop(key, None)
        if one.is_sweep_override():
            words[key] = str(one.input_line).partition("=")[2]
            _refuse_unsearchable(key, words[key])
            searched[key] = _distribution(one, key, words[key])
        else:
            fixed[key] = str(one.input_line)
    if not searched:
        valid = "what to search, such as mask.token.rate=interval(0.05,0.5) on the command line"
        raise InputError("hydra.sweeper.params", "{}", valid)
    return Space(searched, words, tuple(fixed.values()))


def shown_value(value: Any) -> str:
    """As a command line and the name of a run can have it: six digits are enough."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _refuse_unsearchable(key: str, words: str) -> None:
    plain = key.lstrip("+~")
    if plain in _SEEDS:
        raise InputError(key, words, "one value: a search over seeds would find the luckiest")
    if is_part_of(plain, _NOT_SEARCHED):
        raise InputError(key, words, "one value: it changes nothing of an SAE, so there is nothing to find")


def _distribution(override: Override, key: str, words: str) -> BaseDistribution:
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            return _interval(value)
        if isinstance(value, RangeSweep) and (found := _range(value)) is not None:
            return found
    except (ValueError, TypeError) as error:
        raise InputError(key, words, f"an interval from a lower to a higher number ({error})") from error
    return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))


def _interval(interval: IntervalSweep) -> BaseDistribution:
    low, high, log = interval.start, interval.end, "log" in interval.tags
    if low is None or high is None:
        raise ValueError("it has no end")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(values: RangeSweep) -> BaseDistribution | None:
    """As Hydra counts, without the end; None of one that counts down."""
    start, stop, step = values.start, values.stop, values.step
    if start is None or stop is None or step <= 0:
        return None
    last = start + (math.ceil(round((stop - start) / step, 9)) - 1) * step
    if all(isinstance(one, int) for one in (start, stop, step)):
        return IntDistribution(int(start), int(last), step=int(step))
    return FloatDistribution(float(start), float(last), step=float(step))


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_float(key, low, high, step=distribution.step, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_int(key, low, high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(key, distribution.choices)


def _first(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, (FloatDistribution, IntDistribution)):
        return distribution.low
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices[0]
