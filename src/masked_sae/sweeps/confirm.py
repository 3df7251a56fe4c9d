"""What a search found, trained anew: on seeds that had no part in the choice, each beside an unmasked run."""

from typing import Any

from optuna.trial import FrozenTrial

from masked_sae.errors import InputError
from masked_sae.runs.lock import hold
from masked_sae.sweeps.search import CONFIRM, LOCK, Plan, best_of, confirmed_name
from masked_sae.sweeps.study import JOURNAL, open_study

_FIRST_SEED = 100  # far from those that people begin with


def jobs_to_confirm(plan: Plan, seeds: int) -> list[tuple[str, ...]]:
    """The overrides of each run.

    Raises:
        InputError: nothing was found yet.
        HeldError: the search is under way.
    """
    nothing = InputError(CONFIRM, seeds, f"a search that has found something: {plan.sweep} holds none (train it first)")
    if not (plan.sweep / JOURNAL).exists():
        raise nothing
    with hold(plan.sweep / LOCK):
        best = best_of(open_study(plan.sweep, plan.config, plan.space, None))
    if not best:
        raise nothing
    settings = [values for one in best for values in _masked_and_not(plan, one)]
    return list(dict.fromkeys((*words, *_at(plan, seed)) for words in settings for seed in _new_seeds(plan, seeds)))


def _masked_and_not(plan: Plan, best: FrozenTrial) -> list[tuple[str, ...]]:
    """The best, and the same without the masks whose rates were searched."""
    values: dict[str, Any] = {key: best.params[key] for key in plan.space.searched}
    off: dict[str, Any] = {}
    for name, mask in plan.config.mask.items():
        if f"mask.{name}.rate" in values:
            off[f"mask.{name}.rate"] = 0
            if hasattr(mask, "schedule"):
                off[f"mask.{name}.schedule"] = "constant"  # another may begin at a rate of its own
    if not off:
        return [plan.space.overrides(values)]
    more = tuple(f"{key}={value}" for key, value in off.items() if key not in values)
    return [plan.space.overrides(values), (*plan.space.overrides(values | off), *more)]


def _new_seeds(plan: Plan, count: int) -> list[int]:
    had = {plan.config.seed, plan.config.data_seed}
    return [seed for seed in range(_FIRST_SEED, _FIRST_SEED + count + len(had)) if seed not in had][:count]


def _at(plan: Plan, seed: int) -> list[str]:
    """A text order of its own for each seed, also where the search had one for all."""
    of_text = [] if plan.config.data.seed is None else [f"data.seed={seed}"]
    return [f"seed={seed}", *of_text, f"name={confirmed_name(plan.config)}"]
