"""Hydra's door to our launchers: what a multirun's jobs become."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from masked_sae.runs.run import Run


class _SweepLauncher(Launcher):
    def __init__(self) -> None:
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def _runs(self, job_overrides: Sequence[Sequence[str]]) -> "list[Run]":
        """The members, each made once."""
        from masked_sae.config import check, typed_config  # only now: --help needs no torch

        assert self._context is not None and self._config is not None
        swept = _swept(job_overrides, self._config.hydra.sweeper.params or {})
        loader = self._context.config_loader
        configs = [typed_config(loader.load_sweep_config(self._config, list(job))) for job in job_overrides]
        for config in configs:
            check(config)  # before the heavier libraries are read in, and before any member is named
        from masked_sae.sweeps.local import make_runs

        return make_runs(list(zip(configs, swept, strict=True)))

    @property
    def _command(self) -> Sequence[str]:
        """What stood on the command line, but for where and how."""
        assert self._config is not None
        sources = self._config.hydra.runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
        options = [word for folder in folders for word in ("--config-dir", folder)]
        return [*options, *self._config.hydra.overrides.task]


class LocalLauncher(_SweepLauncher):
    """Trains the members of a sweep one after another, in this process."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        runs = self._runs(job_overrides)
        from masked_sae.sweeps.local import train_here

        train_here(runs, self._command)
        return []


class SlurmLauncher(_SweepLauncher):
    """Submits the members of a sweep as one SLURM array through submitit, and waits for them unless detached.

    Args:
        settings: `hydra/launcher=slurm`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = settings

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        runs = self._runs(job_overrides)
        from masked_sae.sweeps.slurm import submit_and_wait

        submit_and_wait(runs, self._settings, self._command)
        return []


def _swept(job_overrides: Sequence[Sequence[str]], params: Mapping[str, Any]) -> list[dict[str, str]]:
    """For each job, the values of the keys that the sweep is over: its own, and those that differ between jobs."""
    jobs = [dict(override.lstrip("+~").split("=", 1) for override in overrides) for overrides in job_overrides]
    varied = [key for key in jobs[0] if len({job[key] for job in jobs}) > 1]
    keys = [key for key in jobs[0] if key in params or key in varied]
    return [{key: job[key] for key in keys} for job in jobs]
