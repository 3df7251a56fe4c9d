"""Hydra's door to our sweeps: which members a multirun has, and where they are trained."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from masked_sae.commands.search_path import PROVIDER
from masked_sae.errors import InputError

if TYPE_CHECKING:
    from masked_sae.config import RunConfig
    from masked_sae.runs.run import Run
    from masked_sae.sweeps.foreseen import Foreseen

_SHOWN_AFTER_SECONDS = 1.0
_MOST_WORKERS = 1024
_UNTOLD_WORKERS = 4  # jobs of a search at one time, where nothing says how many there may be


@dataclass
class SlurmSettings(SlurmQueueConf):
    """submitit's settings of SLURM, where time and the number of jobs at once need not be told, Python may be another,
    and jobs may follow on one another.
    """

    array_parallelism: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout_min: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    nodes: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    tasks_per_node: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    python: str | None = None
    chain: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="base_slurm", node=SlurmSettings)


class MembersSweeper(BasicSweeper):
    """Hydra's own sweeper, without what it does once more than needed: our launchers compose and check every member
    before one is trained, and a sweep's folder has its command, so nothing else is composed and nothing is written.

    Args:
        arms: grids, each with the values of `params` too; the members are those of all of them. None: one of `params`.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        arms: Sequence[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.arms = arms or [{}]

    def sweep(self, arguments: list[str]) -> Any:
        assert self.launcher is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        jobs: list[list[str]] = []
        for arm in self.arms:
            of_file = [f"{key}={values}" for key, values in {**self.params, **arm}.items()]
            [grid] = self.split_arguments(parser.parse_overrides([*of_file, *arguments]), None)
            jobs.extend(grid)
        done = 0
        for batch in self.split_overrides_to_chunks(jobs, self.max_batch_size):
            self.launcher.launch(batch, initial_job_idx=done)
            done += len(batch)


class SweepLauncher(Launcher):
    """What launchers share: they make all members of a batch before one is trained, and return what each came to.

    Attributes:
        workers: members that it trains at one time, of those that share no forwards.
    """

    workers = 1

    def __init__(self) -> None:
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def train(self, runs: "Sequence[Run]", *, of_search: bool) -> None:
        """Trains what is left of the members.

        Args:
            of_search: returns when all have ended, however that was; otherwise it is the command's end.
        """
        raise NotImplementedError

    def foresee(self, runs: "Sequence[Run]") -> "Foreseen":
        """The jobs that it would have of these."""
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if not self._searches:
            self.train_and_end(job_overrides)
            return []
        from masked_sae.sweeps.outcome import check_search

        assert self._config is not None
        configs = self._configs(job_overrides)
        if any(config.plan for config in configs):
            valid = "false, but for sweeps and hydra/sweeper=search: another sweeper's members are known as it goes"
            raise InputError("plan", True, valid)
        check_search(configs[0])
        self._say_direction(configs[0])
        runs = self._named(configs, job_overrides)
        of_sweeper = Path(self._config.hydra.sweep.dir).expanduser()  # where it writes what it has found
        of_sweeper.mkdir(parents=True, exist_ok=True)
        self.train(list({run.folder.path: run for run in runs}.values()), of_search=True)
        return [_returned(run, job) for run, job in zip(runs, job_overrides, strict=True)]

    def train_and_end(self, job_overrides: Sequence[Sequence[str]]) -> None:
        """Trains all combinations of a sweep, and ends the command."""
        runs = self._named(self._configs(job_overrides), job_overrides)
        from masked_sae.sweeps.local import distinct

        if any(run.config.plan for run in runs):
            self.show_plan(self.foresee(distinct(runs)), runs[0].config)
        else:
            self.train(distinct(runs), of_search=False)

    def show_plan(self, foreseen: "Foreseen", config: "RunConfig") -> None:
        """What the jobs would take, in place of them."""
        from masked_sae.planning.show import show_plan

        show_plan(foreseen, config)

    def config_of(self, overrides: Sequence[str]) -> "RunConfig":
        """A member's configuration, checked."""
        return self._configs([overrides])[0]

    def run_of(self, overrides: Sequence[str]) -> "Run":
        """A member, made and named."""
        return self._named(self._configs([overrides]), [overrides])[0]

    def _configs(self, job_overrides: Sequence[Sequence[str]]) -> "list[RunConfig]":
        from tqdm import tqdm

        from masked_sae.config import check, typed_config  # only now: --help needs no torch

        assert self._context is not None and self._config is not None
        composing = compose_jobs(self._context.config_loader, self._config, job_overrides)
        with tqdm(
            composing,
            desc="settings",
            total=len(job_overrides),
            leave=False,
            delay=_SHOWN_AFTER_SECONDS,
            disable=len(job_overrides) < 2,
        ) as shown:
            configs = [typed_config(config) for config in shown]
        for config in configs:
            check(config)  # before the heavier libraries are read in, and before any member is named
        return configs

    def _named(self, configs: "Sequence[RunConfig]", job_overrides: Sequence[Sequence[str]]) -> "list[Run]":
        """The run of each job, each made once."""
        from masked_sae.sweeps.local import runs_of_jobs

        swept = _swept(job_overrides, self._swept_keys())
        return runs_of_jobs(list(zip(configs, swept, strict=True)))

    def _swept_keys(self) -> set[str]:
        """Those that the sweep's file varies, and those of which the command line gives several values."""
        assert self._config is not None
        parsed = OverridesParser.create().parse_overrides(list(self._config.hydra.overrides.task))
        given = {str(one.key_or_group) for one in parsed if one.is_sweep_override()}
        sweeper = self._config.hydra.sweeper
        grids = [sweeper.get("params") or {}, *(sweeper.get("arms") or [])]
        return {str(key) for grid in grids for key in grid} | given

    @property
    def _searches(self) -> bool:
        """Whether the sweeper goes by what members come to: it does unless it is one that takes all combinations."""
        assert self._config is not None
        return not issubclass(get_class(self._config.hydra.sweeper._target_), BasicSweeper)

    def _say_direction(self, config: "RunConfig") -> None:
        """Optuna's own sweeper is told which way to go; by default it minimizes."""
        from masked_sae.errors import notice
        from masked_sae.evals.objective import better_of, objectives_of

        assert self._config is not None
        told = self._config.hydra.sweeper.get("direction")
        told = list(told) if isinstance(told, ListConfig) else [told]
        for key, way in zip(objectives_of(config.objective), told, strict=False):
            better = better_of(key, config.eval)
            given = None if way is None else str(getattr(way, "name", way))
            if given is not None and given != ("maximize" if better == "higher" else "minimize"):
                notice(f"hydra.sweeper.direction={given} looks for the worst: of {key}, {better} is better")

    @property
    def command(self) -> list[str]:
        """What stood on the command line, but for where and how."""
        assert self._config is not None
        sources = self._config.hydra.runtime.config_sources
        folders = [source.path for source in sources if source.provider in (PROVIDER, "command-line")]
        options = [word for folder in dict.fromkeys(folders) for word in ("--config-dir", folder)]
        given = self._config.hydra.overrides
        how = [word for word in given.hydra if word.lstrip("+~").startswith(("hydra/sweeper", "hydra.sweeper."))]
        return [*options, *given.task, *how]


class LocalLauncher(SweepLauncher):
    """Trains the members of a sweep in this process, pack after pack."""

    def train(self, runs: "Sequence[Run]", *, of_search: bool) -> None:
        from masked_sae.sweeps.local import train_here

        train_here(runs, self.command, of_search=of_search)

    def foresee(self, runs: "Sequence[Run]") -> "Foreseen":
        from masked_sae.sweeps.foreseen import jobs_here

        return jobs_here(runs)


class WorkstationLauncher(SweepLauncher):
    """Trains the packs of a sweep side by side on this machine.

    Args:
        workers: at one time, or `auto`.
    """

    def __init__(self, workers: Any = "auto") -> None:
        super().__init__()
        self._workers = workers
        self.workers = workers if isinstance(workers, int) else _UNTOLD_WORKERS

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        _number_of_workers(self._workers)  # refused before long work
        return super().launch(job_overrides, initial_job_idx)

    def train(self, runs: "Sequence[Run]", *, of_search: bool) -> None:
        workers = _number_of_workers(self._workers)
        from masked_sae.sweeps.workstation import train_on_workstation

        train_on_workstation(runs, workers, self.command, of_search=of_search)

    def foresee(self, runs: "Sequence[Run]") -> "Foreseen":
        from masked_sae.sweeps.foreseen import jobs_on_workstation

        return jobs_on_workstation(runs, _number_of_workers(self._workers))


class SlurmLauncher(SweepLauncher):
    """Submits the packs of a sweep as one SLURM array through submitit, and waits for them unless detached.

    Args:
        settings: `hydra/launcher=slurm`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = {key: _plain(value) for key, value in settings.items()}
        self.workers = settings.get("array_parallelism") or _UNTOLD_WORKERS

    def train(self, runs: "Sequence[Run]", *, of_search: bool) -> None:
        assert self._config is not None
        from masked_sae.sweeps.slurm import submit_and_wait

        chosen = str(self._config.hydra.runtime.choices.get("hydra/launcher", "slurm"))
        submit_and_wait(runs, self._settings, self.command, launcher=chosen, of_search=of_search)

    def foresee(self, runs: "Sequence[Run]") -> "Foreseen":
        from masked_sae.sweeps.foreseen import jobs_on_slurm

        return jobs_on_slurm(runs, self._settings)


def _returned(run: "Run", overrides: Sequence[str]) -> JobReturn:
    """What a sweeper learns of a member: its objective, or several; an error where it has none."""
    from masked_sae.evals.objective import objectives_of
    from masked_sae.sweeps.outcome import outcome_of

    outcome = outcome_of(run, objectives_of(run.config.objective))
    told = JobReturn(overrides=overrides, working_dir=str(run.folder.path), task_name=run.label)
    if outcome.values:
        told.status = JobStatus.COMPLETED
        told.return_value = outcome.values[0] if len(outcome.values) == 1 else outcome.values
    else:
        told.status, told.return_value = JobStatus.FAILED, RuntimeError(f"{run.label}: {outcome.why}")
    return told


def _number_of_workers(asked: Any) -> int | None:
    """None where the machine decides."""
    if asked == "auto":
        return None
    if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= _MOST_WORKERS:
        raise InputError("hydra.launcher.workers", asked, f"auto, or a whole number from 1 to {_MOST_WORKERS:,}")
    return asked


def compose_jobs(
    loader: ConfigLoader, master: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> Iterator[DictConfig]:
    """Each job's configuration, one after another. Hydra composes each combination of choices once; values are then set
    as Hydra would set them, in a copy.
    """
    groups = set(loader.list_groups(""))
    parser = OverridesParser.create()
    parsed: dict[str, Override] = {}
    composed: dict[tuple[str, ...], DictConfig] = {}
    for job in job_overrides:
        for text in job:
            if text not in parsed:
                parsed[text] = parser.parse_override(text)
        values = [parsed[text] for text in job if _is_value(parsed[text], groups)]
        chosen = tuple(text for text in job if not _is_value(parsed[text], groups))
        if chosen not in composed:
            composed[chosen] = _without_hydra(loader.load_sweep_config(master, list(chosen)))
        config = copy.deepcopy(composed[chosen])
        try:
            for one in values:
                OmegaConf.update(config, str(one.key_or_group), one.value(), merge=True)
        except OmegaConfBaseException:
            config = loader.load_sweep_config(master, list(job))  # which says what is wrong
        yield config


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _is_value(override: Override, groups: set[str]) -> bool:
    key = str(override.key_or_group)
    plain = override.type is OverrideType.CHANGE and override.package is None and "/" not in key
    return plain and key not in groups and not key.startswith("hydra.")


def _without_hydra(config: DictConfig) -> DictConfig:
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    OmegaConf.set_struct(own, True)
    return own


def _swept(job_overrides: Sequence[Sequence[str]], keys: set[str]) -> list[dict[str, str]]:
    """For each job, the values of the keys that the sweep is over: those, and others that differ between jobs."""
    jobs = [dict(_key_and_value(override) for override in overrides) for overrides in job_overrides]
    varied = {key for key in jobs[0] if len({job.get(key) for job in jobs}) > 1}
    return [{key: value for key, value in job.items() if key in keys or key in varied} for job in jobs]


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key, value
