"""A search: members are drawn by what those before them came to, batch after batch, until there are enough.

Optuna draws, keeps the study and says which to stop; members are trained as those of any sweep.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from masked_sae.bundled import command_name
from masked_sae.command_line import FAILED
from masked_sae.config import RunConfig
from masked_sae.errors import InputError, notice, printable
from masked_sae.evals.objective import objectives_of
from masked_sae.runs.lock import HeldError, hold
from masked_sae.runs.results import read_results
from masked_sae.runs.run import Run
from masked_sae.runs.search_record import Found, SearchRecord, write_search
from masked_sae.runs.sweep_record import read_members
from masked_sae.sweeps.outcome import Outcome, check_search, outcome_of
from masked_sae.sweeps.pruning import column_of, pruned_while
from masked_sae.sweeps.search_space import Space, shown_value
from masked_sae.sweeps.study import Sampling, left_open, next_sampler, open_study, trials_that
from masked_sae.sweeps.summary import print_members

LOCK = ".search"
CONFIRM = "hydra.sweeper.confirm"
_RUN = "run"
_SEVERAL = 5
_NEW_SEEDS = 5


class Launcher(Protocol):
    """What a search asks of whoever trains its members."""

    def run_of(self, overrides: Sequence[str]) -> Run:
        """A member, made and named; an `InputError` where it cannot work."""
        ...

    def train(self, runs: Sequence[Run], *, of_search: bool) -> None:
        """Returns when all have ended, however that was."""
        ...


@dataclass(frozen=True)
class Plan:
    """Attributes:
    sweep: the folder of the runs and the study.
    config: of any member; what is not searched is the same for all.
    trials: how many members there are to be in all.
    at_once: how many are drawn and trained together.
    command: what stood on the command line.
    """

    sweep: Path
    config: RunConfig
    space: Space
    trials: int
    at_once: int
    sampling: Sampling
    pruner: BasePruner | None
    command: Sequence[str]

    @property
    def objectives(self) -> tuple[str, ...]:
        return objectives_of(self.config.objective)


def search(plan: Plan, launcher: Launcher) -> None:
    """Goes on with the search in the sweep's folder until it has as many members as are asked for, and says what it
    found; exits with an error if nothing came of any.

    Raises:
        InputError: it cannot be searched so, or the study in the folder is another.
    """
    check_search(plan.config)
    column = None if plan.pruner is None else column_of(plan.config)
    _say_if_l0_differs(plan)
    try:
        with hold(plan.sweep / LOCK):
            study = open_study(plan.sweep, plan.config, plan.space, plan.pruner)
            _go_on(plan, study, launcher, column)
            _end(plan, study)
    except HeldError as held:
        print(held)


def _say_if_l0_differs(plan: Plan) -> None:
    sae = plan.config.sae
    sparsity = [f"sae.{one.name}" for one in fields(sae) if one.metadata.get("sparsity")]
    searched = [key for key in plan.space.searched if key in (*sparsity, "sae", "sae.architecture", "sae.calibrate")]
    if searched or sae.target_l0 is None or sae.calibrate == "none":
        why = f"{searched[0]} is searched" if searched else "nothing sets it (sae.k with sae.calibrate=clean does)"
        notice(f"members differ in L0, with which most metrics move: {why}")


def _go_on(plan: Plan, study: Study, launcher: Launcher, column: str | None) -> None:
    failed_before, put_off = len(trials_that(study, TrialState.FAIL)), 0
    open_ones = left_open(study)
    while True:
        ended = len(trials_that(study, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)) - failed_before
        count = min(plan.at_once, plan.trials - ended - put_off)
        if count <= 0:
            break
        batch, open_ones = open_ones[:count], open_ones[count:]
        study.sampler = next_sampler(plan.sampling, plan.config.seed, study)
        batch += [study.ask() for _ in range(count - len(batch))]
        members = [(trial, run) for trial in batch if (run := _make(plan, study, trial, launcher)) is not None]
        if members:
            put_off += _train(plan, study, members, launcher, column)
        write_search(plan.sweep, record_of(plan, study))


def _make(plan: Plan, study: Study, trial: Trial, launcher: Launcher) -> Run | None:
    """The member of a trial; None where its values do not go together.

    Raises:
        InputError: they do not, and of several no values did: the mistake is probably the user's.
    """
    try:
        run = launcher.run_of(plan.space.overrides(plan.space.suggest(trial)))
    except InputError as error:
        study.tell(trial, state=TrialState.FAIL)
        drawn = study.get_trials(deepcopy=False)
        if len(drawn) >= _SEVERAL and not any(_RUN in one.user_attrs for one in drawn):
            raise
        print(printable(f"trial {trial.number}: not trained: {error}"), flush=True)
        return None
    trial.set_user_attr(_RUN, run.folder.run_id)
    return run


def _train(
    plan: Plan, study: Study, members: Sequence[tuple[Trial, Run]], launcher: Launcher, column: str | None
) -> int:
    """How many did not end: others are at them."""
    runs = list({run.folder.path: run for _, run in members}.values())
    watched: AbstractContextManager[None] = nullcontext() if column is None else pruned_while(members, column)
    with watched:
        launcher.train(runs, of_search=True)
    outcomes = [(trial, run, outcome_of(run, plan.objectives)) for trial, run in members]
    for trial, _, outcome in outcomes:
        _tell(study, trial, outcome)
    _refuse_what_is_never_measured(plan, study, outcomes)
    return sum(not outcome.has_ended for _, _, outcome in outcomes)


def _tell(study: Study, trial: Trial, outcome: Outcome) -> None:
    """An end that somebody asked for tells nothing of the values, so it counts as a failure: but for the pruner's."""
    if outcome.values:
        study.tell(trial, list(outcome.values))
    elif outcome.status == "pruned":
        study.tell(trial, state=TrialState.PRUNED)
    elif outcome.has_ended:
        study.tell(trial, state=TrialState.FAIL)
    said = ", ".join(map(shown_value, outcome.values)) or outcome.why
    print(printable(f"trial {trial.number}: {said}"), flush=True)


def _refuse_what_is_never_measured(plan: Plan, study: Study, outcomes: Sequence[tuple[Trial, Run, Outcome]]) -> None:
    """Names such as `absorption/SET/…` can be told of only once something is measured."""
    without = next((run for _, run, outcome in outcomes if outcome.status == "done" and not outcome.values), None)
    if without is not None and not trials_that(study, TrialState.COMPLETE):
        known = read_results(without.folder).metrics
        lacking = next(key for key in plan.objectives if key not in known)
        family = lacking.split("/")[0]
        there = [key for key in known if key.startswith(f"{family}/")] or list(known)
        valid = f"a metric that was measured of {without.folder.run_id}: {', '.join(there) or 'there is none'}"
        raise InputError("objective", lacking, valid)


def best_of(study: Study) -> list[FrozenTrial]:
    """The best trial, or the front of several objectives; none before one is done. Of trials of one run, the first."""
    if not trials_that(study, TrialState.COMPLETE):
        return []
    of_run: dict[Any, FrozenTrial] = {}
    for one in study.best_trials:
        of_run.setdefault(one.user_attrs.get(_RUN), one)
    return list(of_run.values())


def record_of(plan: Plan, study: Study) -> SearchRecord:
    states = Counter(one.state.name.lower() for one in study.get_trials(deepcopy=False))
    best = [
        Found(
            str(one.user_attrs.get(_RUN, "")),
            {key: shown_value(one.params[key]) for key in plan.space.searched},
            list(one.values),
        )
        for one in best_of(study)
    ]
    kept = [word for word in plan.command if word.partition("=")[0] not in (CONFIRM, "hydra.sweeper.n_trials")]
    confirm = [*command_name("train").split(), *kept, f"{CONFIRM}={_NEW_SEEDS}", "-m"]
    return SearchRecord(
        plan.objectives, dict(plan.space.words), dict(states), best, confirm, confirmed_name(plan.config)
    )


def confirmed_name(config: RunConfig) -> str:
    """Of the sweep that trains the best anew."""
    return f"{config.name}_confirmed"


def _end(plan: Plan, study: Study) -> None:
    print_members(read_members(plan.sweep))
    record = record_of(plan, study)
    counted = ", ".join(f"{count} {state}" for state, count in record.trials.items())
    print(f"{sum(record.trials.values())} trials: {counted}")
    if not record.best:
        if not record.trials.get("pruned"):
            print("error: no member of the search is done", file=sys.stderr)
            sys.exit(FAILED)
        return
    for one in record.best:
        settings = ", ".join(f"{key}={value}" for key, value in one.settings.items())
        values = zip(record.objectives, map(shown_value, one.values), strict=True)
        print(printable(f"best so far: {settings} ({', '.join(f'{key} {value}' for key, value in values)})"))
    print("chosen for these values, so they flatter it; what holds is what new seeds show:")
    print(printable(shlex.join(record.confirm)))
