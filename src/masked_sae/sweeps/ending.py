"""How a run ended that can no longer say it itself."""

from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import hold
from masked_sae.runs.state import ENDED, RunState, Status, write_state
from masked_sae.training.done import known_state


def end_run(folder: RunFolder, status: Status, why: str) -> None:
    """Writes its state, unless it has ended by itself.

    Raises:
        HeldError: a process works at it.
    """
    with hold(folder.lock):
        state = known_state(folder) or RunState(folder.run_id, "created")
        if state.status not in ENDED:
            write_state(folder.state, state, status=status, error=why)
