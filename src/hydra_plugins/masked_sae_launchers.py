"""Hydra's door to our sweeps: which members a multirun has, and where they are trained."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from masked_sae.errors import InputError

if TYPE_CHECKING:
    from masked_sae.runs.run import Run

_SHOWN_AFTER_SECONDS = 1.0
_MOST_WORKERS = 1024


@dataclass
class SlurmSettings(SlurmQueueConf):
    """submitit's settings of SLURM, where time and the number of jobs at once need not be told, Python may be another,
    and jobs may follow on one another.
    """

    array_parallelism: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout_min: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    python: str | None = None
    chain: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="base_slurm", node=SlurmSettings)


class MembersSweeper(BasicSweeper):
    """Hydra's own sweeper, without what it does once more than needed: our launchers compose and check every member
    before one is trained, and a sweep's folder has its command, so nothing else is composed and nothing is written.
    """

    def sweep(self, arguments: list[str]) -> Any:
        assert self.launcher is not None and self.hydra_context is not None
        of_file = [f"{key}={values}" for key, values in self.params.items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        batches = self.split_arguments(parser.parse_overrides([*of_file, *arguments]), self.max_batch_size)
        done = 0
        for batch in batches:
            self.launcher.launch(batch, initial_job_idx=done)
            done += len(batch)


class _SweepLauncher(Launcher):
    def __init__(self) -> None:
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def _runs(self, job_overrides: Sequence[Sequence[str]]) -> "list[Run]":
        """The members, each made once."""
        from tqdm import tqdm

        from masked_sae.config import check, typed_config  # only now: --help needs no torch

        assert self._context is not None and self._config is not None
        swept = _swept(job_overrides, self._swept_keys())
        composing = compose_jobs(self._context.config_loader, self._config, job_overrides)
        with tqdm(
            composing, desc="settings", total=len(job_overrides), leave=False, delay=_SHOWN_AFTER_SECONDS
        ) as shown:
            configs = [typed_config(config) for config in shown]
        for config in configs:
            check(config)  # before the heavier libraries are read in, and before any member is named
        from masked_sae.sweeps.local import make_runs

        return make_runs(list(zip(configs, swept, strict=True)))

    def _swept_keys(self) -> set[str]:
        """Those that the sweep's file varies, and those of which the command line gives several values."""
        assert self._config is not None
        parsed = OverridesParser.create().parse_overrides(list(self._config.hydra.overrides.task))
        given = {str(one.key_or_group) for one in parsed if one.is_sweep_override()}
        return {str(key) for key in self._config.hydra.sweeper.get("params") or {}} | given

    @property
    def _command(self) -> Sequence[str]:
        """What stood on the command line, but for where and how."""
        assert self._config is not None
        sources = self._config.hydra.runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
        options = [word for folder in folders for word in ("--config-dir", folder)]
        return [*options, *self._config.hydra.overrides.task]


class LocalLauncher(_SweepLauncher):
    """Trains the members of a sweep in this process, pack after pack."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        runs = self._runs(job_overrides)
        from masked_sae.sweeps.local import train_here

        train_here(runs, self._command)
        return []


class WorkstationLauncher(_SweepLauncher):
    """Trains the packs of a sweep side by side on this machine.

    Args:
        workers: at one time, or `auto`.
    """

    def __init__(self, workers: Any = "auto") -> None:
        super().__init__()
        self._workers = workers

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        workers = _number_of_workers(self._workers)
        runs = self._runs(job_overrides)
        from masked_sae.sweeps.workstation import train_on_workstation

        train_on_workstation(runs, workers, self._command)
        return []


class SlurmLauncher(_SweepLauncher):
    """Submits the packs of a sweep as one SLURM array through submitit, and waits for them unless detached.

    Args:
        settings: `hydra/launcher=slurm`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = {key: _plain(value) for key, value in settings.items()}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        assert self._config is not None
        runs = self._runs(job_overrides)
        from masked_sae.sweeps.slurm import submit_and_wait

        chosen = str(self._config.hydra.runtime.choices.get("hydra/launcher", "slurm"))
        submit_and_wait(runs, self._settings, self._command, launcher=chosen)
        return []


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
