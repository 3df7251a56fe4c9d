"""What torch computes with: so many threads on the CPU, a run's own number, since sums depend on it in their last bits;
and the precision of matrix products.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import torch

from masked_sae.errors import DamagedFileError, notice
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import Run

DEFAULT_THREADS = 2  # of every new run: neither the machine's cores nor SLURM's, so that it has the same bits on each


def own_threads(folder: RunFolder | None, asked: int | None) -> int:
    """The run's own number: that of its first attempt.

    Args:
        folder: of the run; None of one that begins anew.
        asked: `trainer.threads`.
    """
    return (folder and threads_of(folder)) or asked or DEFAULT_THREADS


def use_threads(folder: RunFolder | None, asked: int | None) -> int:
    """Has torch use the run's own number of threads, or the one that was asked for. Returns the run's own."""
    own = own_threads(folder, asked)
    if folder is not None and asked not in (None, own):
        notice(
            f"trainer.threads={asked}: {folder.run_id} was begun with {own}; from here on it may differ by round-off "
            "from what it would have been"
        )
    torch.set_num_threads(asked or own)
    return own


def with_threads(run: Run, threads: int) -> Run:
    """The run, with its own number of threads in its configuration."""
    return replace(run, config=replace(run.config, trainer=replace(run.config.trainer, threads=threads)))


def threads_of(folder: RunFolder) -> int | None:
    """As the run's folder has it; None where there is none yet."""
    try:
        recorded = read_config(folder.config).get("trainer", {}).get("threads")
    except (FileNotFoundError, NotADirectoryError, DamagedFileError, AttributeError):
        recorded = None
    if isinstance(recorded, int) and recorded > 0:
        return recorded
    attempts = read_attempts(folder.attempts)
    return attempts[0].threads if attempts else None


@contextmanager
def matmul_precision(precision: str) -> Generator[None]:
    """Products of float32 matrices are of this precision inside, and after it of the one that they were of before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
