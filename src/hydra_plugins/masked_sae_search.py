"""Hydra's door to a search: `hydra/sweeper=search`, which a sweep's file may choose."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.masked_sae_launchers import SweepLauncher
from masked_sae.errors import InputError

_OLDEST_OPTUNA = 4  # whose journal a study is


class SearchSweeper(Sweeper):
    """Args:
    n_trials: members in all, those of earlier commands included.
    at_once: members that are drawn and trained together; None: as many as the launcher has workers.
    sampler: makes one of Optuna's samplers.
    pruner: one of Optuna's; None: every member is trained to its end.
    confirm: so many new seeds on which what was found is trained, in place of searching on.
    params: what is searched, by key, in Hydra's words.
    """

    def __init__(
        self,
        n_trials: Any,
        at_once: Any,
        sampler: Callable[..., Any],
        pruner: Any,
        confirm: Any,
        params: Mapping[str, Any] | None,
    ) -> None:
        self._n_trials, self._at_once, self._confirm = n_trials, at_once, confirm
        self._sampler, self._pruner, self._params = sampler, pruner, params or {}
        self._launcher: SweepLauncher | None = None
        self._context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not isinstance(launcher, SweepLauncher):
            chosen = config.hydra.runtime.choices.get("hydra/launcher")
            raise InputError("hydra/launcher", chosen, "local, workstation or slurm: a search follows its runs")
        self._launcher, self._context = launcher, hydra_context

    def sweep(self, arguments: list[str]) -> None:
        assert self._launcher is not None and self._context is not None
        launcher = self._launcher
        for key, value in (("n_trials", self._n_trials), ("at_once", self._at_once), ("confirm", self._confirm)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"hydra.sweeper.{key}", value, "a whole number above 0")
        of_file = [f"{key}={values}" for key, values in self._params.items()]
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        parsed = parser.parse_overrides([*of_file, *arguments])
        _refuse_old_optuna()
        from masked_sae.sweeps.confirm import jobs_to_confirm  # only now: --help needs neither torch nor Optuna
        from masked_sae.sweeps.search import Plan, search
        from masked_sae.sweeps.search_space import read_space

        space = read_space(parsed)
        config = launcher.config_of(space.overrides(space.first()))
        plan = Plan(
            sweep=Path(config.output_dir) / config.name,
            config=config,
            space=space,
            trials=self._n_trials,
            at_once=self._at_once or launcher.workers,
            sampling=self._sampler,
            pruner=self._pruner,
            command=launcher.command,
        )
        if self._confirm is None and config.plan:
            from masked_sae.sweeps.foreseen import of_search
            from masked_sae.sweeps.outcome import check_search

            check_search(config)
            member = launcher.foresee([launcher.run_of(space.overrides(space.first()))])
            launcher.show_plan(of_search(member, self._n_trials, plan.at_once), config)
        elif self._confirm is None:
            search(plan, launcher)
        else:
            launcher.train_and_end(jobs_to_confirm(plan, self._confirm))


def _refuse_old_optuna() -> None:
    """hydra-optuna-sweeper, Optuna's own door, takes it back to 2.10 where it is installed."""
    import optuna

    if int(optuna.__version__.split(".")[0]) < _OLDEST_OPTUNA:
        valid = f"Optuna {_OLDEST_OPTUNA} or later (here is {optuna.__version__})"
        raise InputError("hydra/sweeper", "search", valid)
