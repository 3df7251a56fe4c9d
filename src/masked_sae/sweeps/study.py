"""Optuna's study of a search: a journal in the sweep's folder, so that a search that is started again goes on."""

import inspect
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from masked_sae.config import RunConfig
from masked_sae.errors import DamagedFileError, InputError, first_line
from masked_sae.evals.objective import better_of, objectives_of
from masked_sae.report.runs_table import flat
from masked_sae.runs.identity import HOW, is_part_of
from masked_sae.settings import without_neutral
from masked_sae.sweeps.search_space import Space

JOURNAL = "study.journal"
_NAME = "search"
_BEGUN_WITH = "begun with"
_NOT_OF_VALUES = (*HOW, "name")  # settings that change no member's figures
_ANOTHER = "name=NAME begins another search"

Sampling = Callable[..., BaseSampler]


def open_study(sweep: Path, config: RunConfig, space: Space, pruner: BasePruner | None) -> Study:
    """The study that lies in a sweep's folder, or a new one.

    Args:
        config: of any member; what is not searched is the same for all.

    Raises:
        InputError: the study there was begun with other settings, so values of the two would not compare.
        DamagedFileError: the journal cannot be read.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)
    journal = sweep / JOURNAL
    _mend(journal)
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name=_NAME,
            directions=directions_of(config),
            pruner=pruner or NopPruner(),
            load_if_exists=True,
        )
        begun_with = study.user_attrs.get(_BEGUN_WITH)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        mend = "without it the search begins anew, and finds its runs done"
        raise DamagedFileError(journal, first_line(error), mend) from error
    settings = _settings(config, space)
    if begun_with is None:
        study.set_user_attr(_BEGUN_WITH, settings)
    else:
        _refuse_others(settings, begun_with, journal)
    return study


def directions_of(config: RunConfig) -> list[StudyDirection]:
    """The better way of each objective."""
    better = [better_of(key, config.eval) for key in objectives_of(config.objective)]
    return [StudyDirection.MAXIMIZE if one == "higher" else StudyDirection.MINIMIZE for one in better]


def next_sampler(sampling: Sampling, seed: int, study: Study) -> BaseSampler:
    """The sampler of the next trials. It is drawn from the seed and how many trials there are, so a search that is
    started again goes on as it would have, and does not draw its first values once more.
    """
    known = inspect.signature(sampling).parameters
    own: Mapping[str, Any] = getattr(sampling, "keywords", {})
    more: dict[str, Any] = {}
    if "seed" in known:
        base = own.get("seed")
        base = seed if base is None else int(base)
        is_sequence = getattr(sampling, "func", sampling) is QMCSampler  # it counts its points in the study
        more["seed"] = base if is_sequence else _drawn(base, len(study.get_trials(deepcopy=False)))
    if "constant_liar" in known and "constant_liar" not in own:
        more["constant_liar"] = True  # of members that train at one time, none is drawn beside another
    return sampling(**more)


def _drawn(seed: int, trials: int) -> int:
    return int(np.random.SeedSequence([seed, trials]).generate_state(1)[0])


def left_open(study: Study) -> list[Trial]:
    """Trials that were drawn, and not told of, when the search was stopped: their members go on where they were."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [Trial(study, one._trial_id) for one in running]  # pyright: ignore[reportPrivateUsage] - no public way


def trials_that(study: Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)


def _settings(config: RunConfig, space: Space) -> dict[str, str]:
    """What has to stay for values to compare: settings that are not searched, and the space."""
    found = {key: one if isinstance(one, str) else json.dumps(one) for key, one in flat(without_neutral(config))}
    searched = [key.lstrip("+") for key in space.searched]
    kept = {key: value for key, value in found.items() if not is_part_of(key, (*_NOT_OF_VALUES, *searched))}
    return kept | {key: words.replace(" ", "") for key, words in space.words.items()}


def _refuse_others(now: Mapping[str, str], then: Mapping[str, str], journal: Path) -> None:
    for key in {**then, **now}:
        if now.get(key) != then.get(key):
            valid = f"{then.get(key)}, which the search in {journal.parent} was begun with; {_ANOTHER}"
            raise InputError(key, now.get(key), valid)


def _mend(journal: Path) -> None:
    """Takes away what a kill has left: half a line, after which nothing could be read, and the lock. Nobody else may
    be at the study.
    """
    for lock in journal.parent.glob(f"{JOURNAL}.lock*"):
        lock.unlink(missing_ok=True)
    if not journal.exists():
        return
    text = journal.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        with journal.open("r+b") as file:
            file.truncate(whole)
