"""Hydra's door to our launchers: what a multirun's jobs become."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _SweepLauncher(Launcher):
    def __init__(self) -> None:
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def _jobs(self, job_overrides: Sequence[Sequence[str]]) -> list[tuple[DictConfig, Mapping[str, str]]]:
        assert self._context is not None and self._config is not None
        swept = _swept(job_overrides, self._config.hydra.sweeper.params or {})
        loader = self._context.config_loader
        return [
            (loader.load_sweep_config(self._config, list(overrides)), values)
            for overrides, values in zip(job_overrides, swept, strict=True)
        ]


class LocalLauncher(_SweepLauncher):
    """Trains the members of a sweep one after another, in this process."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from masked_sae.sweeping import identify_all, train_here

        train_here(identify_all(self._jobs(job_overrides)))
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
        from masked_sae.slurm import submit_and_wait
        from masked_sae.sweeping import identify_all

        submit_and_wait(identify_all(self._jobs(job_overrides)), self._settings)
        return []


def _swept(job_overrides: Sequence[Sequence[str]], params: Mapping[str, Any]) -> list[dict[str, str]]:
    """For each job, the values of the keys that the sweep is over: its own, and those that differ between jobs."""
    jobs = [dict(override.lstrip("+~").split("=", 1) for override in overrides) for overrides in job_overrides]
    varied = [key for key in jobs[0] if len({job[key] for job in jobs}) > 1]
    keys = [key for key in jobs[0] if key in params or key in varied]
    return [{key: job[key] for key in keys} for job in jobs]
