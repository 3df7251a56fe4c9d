"""Searches over small runs, in this process: what Hydra's door adds is composing alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.pruners import BasePruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from masked_sae.runs.run import Run
from masked_sae.sweeps.local import make_runs, train_here
from masked_sae.sweeps.search import Plan, search
from masked_sae.sweeps.search_space import read_space
from masked_sae.sweeps.study import open_study
from support.composing import small_config


@dataclass
class Here:
    """Trains members of these settings as `hydra/launcher=local` does; `trained` are those that it was given."""

    lm: Path
    corpus: Path
    out: Path
    settings: tuple[str, ...]

    def __post_init__(self) -> None:
        self.trained: list[str] = []

    def run_of(self, overrides: Sequence[str]) -> Run:
        config = small_config(self.lm, self.corpus, self.out, *self.settings, *overrides)
        swept = dict(override.split("=", 1) for override in overrides)
        (run,) = make_runs([(config, swept)])
        return run

    def train(self, runs: Sequence[Run], *, of_search: bool) -> None:
        self.trained += [run.folder.run_id for run in runs]
        train_here(runs, of_search=of_search)

    def plan(self, *space: str, trials: int, at_once: int = 1, pruner: BasePruner | None = None) -> Plan:
        read = read_space(OverridesParser.create().parse_overrides(list(space)))
        config = self.run_of(read.overrides(read.first())).config
        sweep = Path(config.output_dir) / config.name
        return Plan(sweep, config, read, trials, at_once, partial(TPESampler, n_startup_trials=2), pruner, ["+sweep=x"])

    def search(self, *space: str, trials: int, at_once: int = 1, pruner: BasePruner | None = None) -> list[FrozenTrial]:
        """The trials there are when it is over."""
        plan = self.plan(*space, trials=trials, at_once=at_once, pruner=pruner)
        search(plan, self)
        return trials_of(plan)


def trials_of(plan: Plan) -> list[FrozenTrial]:
    return open_study(plan.sweep, plan.config, plan.space, None).get_trials()


def named(here: Here, *settings: str) -> Here:
    """The same with other settings."""
    return replace(here, settings=(*here.settings, *settings))
