"""Members of a search that are stopped early: their curves are followed while they train, here or on other nodes, and
those that Optuna's pruner gives up are asked to end, through a file in their folder.
"""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from optuna.trial import Trial

from masked_sae.config import RunConfig
from masked_sae.errors import InputError, notice, one_line
from masked_sae.evals.objective import objectives_of
from masked_sae.runs.asked_end import ask_to_end
from masked_sae.runs.curve import VALIDATED, parse_rows
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState
from masked_sae.sweeps.summary import find_state

_LOOK_EVERY_SECONDS = 1.0


def column_of(config: RunConfig) -> str:
    """The column of the curve that a pruner judges by: the objective, as it is measured while training.

    Raises:
        InputError: it is not.
    """
    objectives = objectives_of(config.objective)
    column = f"val/{objectives[0].removeprefix('core/')}"
    if len(objectives) > 1 or column not in VALIDATED:
        those = ", ".join(f"core/{key.removeprefix('val/')}" for key in VALIDATED if key != "val/l0")
        valid = f"null, or one objective that is measured while training ({those})"
        raise InputError("hydra.sweeper.pruner", f"of {', '.join(objectives)}", valid)
    if config.trainer.validate_every_steps is None:
        valid = "a number of steps: a pruner judges by what is measured while training"
        raise InputError("trainer.validate_every_steps", None, valid)
    return column


@dataclass
class Followed:
    """A member that trains. `reported` is the last step that its trial was told of."""

    trial: Trial
    run: Run
    reported: int


@contextmanager
def pruned_while(trials: Sequence[tuple[Trial, Run]], column: str) -> Generator[None]:
    """While the block trains the members of these trials."""
    followed = [Followed(trial, run, _last_reported(trial)) for trial, run in trials]
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(followed, column, over), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
    for one in followed:
        _report(one, column)  # the last rows, by which later members are judged


def _watch(followed: Sequence[Followed], column: str, over: threading.Event) -> None:
    while not over.wait(_LOOK_EVERY_SECONDS):
        for one in followed:
            try:
                _look(one, column)
            except Exception as error:  # noqa: BLE001 - a thread's error would end nothing and be seen by nobody
                notice(f"{one.run.label}: cannot be judged now, and trains on: {one_line(error)}")
                over.wait(_LOOK_EVERY_SECONDS)


def _look(one: Followed, column: str) -> None:
    state = find_state(one.run.folder)
    if not isinstance(state, RunState) or state.status != "running":
        return
    _report(one, column)
    if one.trial.should_prune() and not one.run.folder.asked_end.exists():
        ask_to_end(one.run.folder, "pruned", f"{column} at step {one.reported}: the search's pruner gave it up")


def _report(one: Followed, column: str) -> None:
    if not one.run.folder.metrics.exists():
        return
    _, rows, _ = parse_rows(one.run.folder.metrics)
    for row in rows:
        step = int(row["step"])
        if step > one.reported and column in row:
            one.trial.report(row[column], step)
            one.reported = step


def _last_reported(trial: Trial) -> int:
    found = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    return max(found, default=-1)
