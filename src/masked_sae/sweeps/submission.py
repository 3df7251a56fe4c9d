"""From packs to SLURM's jobs, through submitit: as arrays, or as chains of arrays."""

import os
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from masked_sae.errors import InputError
from masked_sae.sweeps.slurm_queue import most_in_an_array, partition_minutes

# From SLURM 22.05 on srun asks for one CPU, whatever its job has, unless this tells it.
_ALL_CPUS = '[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'
# The keys that submitit takes for every kind of cluster; all others are SLURM's.
_COMMON = frozenset("timeout_min cpus_per_task gpus_per_node tasks_per_node mem_gb nodes name stderr_to_stdout".split())
_OWN = frozenset("submitit_folder max_num_timeout python chain array_parallelism".split())
# What sbatch says where a user has as many jobs in the queue as may be.
_NO_ROOM = re.compile(r"submit ?job|accounting/QOS policy|temporarily unable to accept|limit on number of jobs", re.I)

Links = list[Callable[[], Any]]  # what runs, in each job of a chain


class NoRoomError(RuntimeError):
    """SLURM takes no more jobs of this user now."""


def send_array(
    chains: Sequence[Links], settings: Mapping[str, Any], setup: Sequence[str], after: str | None
) -> list[list[str]]:
    """Submits as one array the first jobs of chains, as another that follows on it the second ones, and so on.

    Args:
        chains: all of the same length.
        settings: `hydra/launcher=slurm`.
        setup: shell lines before the user's.
        after: the id of a job or an array that has to end first.

    Returns:
        The ids of each chain's jobs.

    Raises:
        NoRoomError: the user has as many jobs in the queue as may be; none was submitted.
        InputError: SLURM takes no such jobs.
    """
    found: list[list[str]] = [[] for _ in chains]
    for link in range(len(chains[0])):
        try:
            ids = _send([chain[link] for chain in chains], settings, setup, after)
        except NoRoomError:
            if link == 0:
                raise
            return found  # a shorter chain: whoever starts the sweep again goes on
        for jobs, job_id in zip(found, ids, strict=True):
            jobs.append(job_id)
        after = ids[0].partition("_")[0]
    return found


def array_sizes(count: int) -> list[int]:
    """How many jobs each of the arrays has that a cluster takes so many jobs in."""
    most = most_in_an_array()
    return [min(most, count - start) for start in range(0, count, most)]


def _send(
    functions: Sequence[Callable[[], Any]], settings: Mapping[str, Any], setup: Sequence[str], after: str | None
) -> list[str]:
    import submitit
    from submitit.core.utils import FailedJobError

    try:
        executor = submitit.AutoExecutor(
            settings["submitit_folder"],
            cluster="slurm",
            slurm_max_num_timeout=settings["max_num_timeout"],
            slurm_python=settings.get("python"),
        )
        told = _told(settings, setup, after)
        executor.update_parameters(**{key if key in _COMMON else f"slurm_{key}": told[key] for key in told})
        with _outside_any_job(), executor.batch():
            submitted = [executor.submit(function) for function in functions]
    except (RuntimeError, FailedJobError, NameError, TypeError, ValueError, AssertionError) as error:
        said = " ".join(str(error).split())
        if _NO_ROOM.search(said):
            raise NoRoomError(said) from error
        raise InputError("hydra/launcher", "slurm", f"a cluster that takes the job ({said})") from error
    return [job.job_id for job in submitted]


def _told(settings: Mapping[str, Any], setup: Sequence[str], after: str | None) -> dict[str, Any]:
    """What submitit is told of the launcher's settings."""
    told = {key: value for key, value in settings.items() if key not in _OWN}
    if settings.get("array_parallelism") is not None:
        told["array_parallelism"] = settings["array_parallelism"]
    if told.get("timeout_min") is None:
        told["timeout_min"] = partition_minutes(told.get("partition"))
    told["setup"] = [_ALL_CPUS, *setup, *(told.get("setup") or [])]
    more = dict(told.get("additional_parameters") or {})
    if (settings.get("chain") or 1) > 1:
        more.pop("requeue", None)
        more["no_requeue"] = True
    if after is not None:
        more["dependency"] = ",".join([f"afterany:{after}", *([more["dependency"]] if more.get("dependency") else [])])
    told["additional_parameters"] = {key: value for key, value in more.items() if value not in (None, False)}
    return told


@contextmanager
def _outside_any_job() -> Generator[None]:
    """Within a job or an interactive session: without what SLURM told of it, which would be taken for what is asked
    for. What the user set for sbatch stays, and where the cluster's configuration is.
    """
    import submitit

    kept = {key: value for key, value in os.environ.items() if key == "SLURM_CONF" or key.startswith("SBATCH_")}
    with submitit.helpers.clean_env():
        os.environ.update(kept)
        yield
