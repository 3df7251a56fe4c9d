"""Runs that share their LM's forwards, trained together: each is left as if it had been trained alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from masked_sae.runs.lock import HeldError
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState
from masked_sae.training.train_run import train_run


@dataclass(frozen=True)
class Outcome:
    """How a member of a pack ended.

    Attributes:
        state: `done` or `preempted`; None where there is an error.
        error: what befell it: `HeldError` where another process is at it.
    """

    run: Run
    state: RunState | None
    error: Exception | None = None


def train_pack(runs: Sequence[Run], patience: float = 0.0) -> list[Outcome]:
    """Trains runs of equal `shares.forwards`, or goes on with them where each was left, and measures what is missing.

    Whatever befalls one member is its own: the others go on.

    Args:
        patience: seconds to wait for a member that another process holds.
    """
    found: list[Outcome] = []
    for run in runs:
        try:
            found.append(Outcome(run, train_run(run, patience)))
        except (HeldError, Exception) as error:  # noqa: BLE001
            found.append(Outcome(run, None, error))
    return found
