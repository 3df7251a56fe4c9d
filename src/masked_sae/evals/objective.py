"""What a search looks for: metrics of `results.json`, each with the way that is better."""

import difflib
import re
from collections.abc import Iterator
from typing import Any, cast

from masked_sae.errors import InputError
from masked_sae.evals.family import Better, Family, find_family, our_families, words_of
from masked_sae.evals.settings import EvalSettings

EXAMPLE = "core/explained_variance"
_ANY = "a metric of results.json"
_NEAR = 3  # names that a line gives


def objectives_of(objective: Any) -> tuple[str, ...]:
    """The metrics that `objective` names; none of a run that nobody searches for.

    Raises:
        InputError: it is no metric and no list of different ones.
    """
    if objective is None:
        return ()
    named = cast("list[Any]", objective) if isinstance(objective, list) else [objective]
    if not named or not all(isinstance(one, str) for one in named) or len(set(named)) < len(named):
        valid = f"a metric of results.json, such as {EXAMPLE}, or a list of different ones"
        raise InputError("objective", objective, valid)
    return tuple(named)


def better_of(key: str, settings: EvalSettings) -> Better:
    """Which way is better.

    Raises:
        InputError: no family that is switched on has such a metric, or neither way is better.
    """
    name, _, metric = key.partition("/")
    if name not in settings.families:
        is_off = name in settings.own or name in [family.name for family in our_families()]
        valid = f"a metric that is measured: {name} is not in eval.families" if is_off else _ANY
        raise InputError("objective", key, valid + _near(key, settings))
    found = words_of(find_family(name, settings).wording, metric)
    if found is None or not found[1].better:
        valid = _ANY if found is None else "a metric of which one way is better"
        raise InputError("objective", key, valid + _near(key, settings))
    return found[1].better


def check_objective(objective: Any, settings: EvalSettings) -> None:
    """Refuses what no run would be measured for."""
    for key in objectives_of(objective):
        better_of(key, settings)


def _near(key: str, settings: EvalSettings) -> str:
    known = [one for name in settings.families for one in _names(find_family(name, settings))]
    near = difflib.get_close_matches(key, known, n=_NEAR, cutoff=0.5) or known[:_NEAR]
    return f" (near: {', '.join(near)})" if near else " (eval.families names none)"


def _names(family: Family) -> Iterator[str]:
    """Of the metrics of which one way is better; what differs from set to set stands as `*`."""
    for one in family.wording:
        if one.better:
            yield f"{family.name}/{re.sub(r'[(][^)]*[)]', '*', one.pattern)}"
