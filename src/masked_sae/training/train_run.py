"""One run from start to end: what `python -m src.train` does. It is a pack of one."""

from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState
from masked_sae.training.train_pack import train_pack


def train_run(run: Run, patience: float = 0.0) -> RunState:
    """Trains a run, or goes on with it where it was left; of a run that is done, measures what is missing.

    Args:
        patience: seconds to wait where another process holds the run.

    Returns:
        The state it ended in: `done`, or `preempted` after a signal.

    Raises:
        InputError: the configuration, the text or the LM cannot be used; no folder was made.
        HeldError: another process is at it.
    """
    (outcome,) = train_pack([run], patience)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.state is not None
    return outcome.state
