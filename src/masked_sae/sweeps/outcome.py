"""What a search learns of a member: how it ended, and what it came to. It holds of any sweeper that searches."""

from collections.abc import Sequence
from dataclasses import dataclass

from masked_sae.config import RunConfig
from masked_sae.errors import DamagedFileError, InputError, one_line
from masked_sae.evals.objective import EXAMPLE, objectives_of
from masked_sae.runs.results import read_results
from masked_sae.runs.state import ENDED, RunState
from masked_sae.runs.sweep_record import Member
from masked_sae.sweeps.summary import find_state, status_of

_ENDED = ENDED | {"damaged"}


@dataclass(frozen=True)
class Outcome:
    """Attributes:
    status: of the run.
    values: of the objectives, in their order; empty where there are none.
    why: a line, where there are none.
    """

    status: str
    values: tuple[float, ...]
    why: str = ""

    @property
    def has_ended(self) -> bool:
        return self.status in _ENDED


def outcome_of(member: Member, objectives: Sequence[str]) -> Outcome:
    """How a member's folder says that it ended."""
    state = find_state(member.folder)
    status = status_of(state)
    if status != "done":
        said = state.error if isinstance(state, RunState) else str(state)
        return Outcome(status, (), f"{status}: {said}" if said else status)
    try:
        metrics = read_results(member.folder).metrics
    except (OSError, DamagedFileError) as error:
        return Outcome("damaged", (), one_line(error))
    lacking = [key for key in objectives if key not in metrics]
    if lacking:
        return Outcome(status, (), f"its results.json has no {', '.join(lacking)}")
    return Outcome(status, tuple(metrics[key] for key in objectives))


def check_search(config: RunConfig) -> None:
    """Refuses what no search can do.

    Raises:
        InputError: it is told nothing to look for, or not to wait for what its members come to.
    """
    if not objectives_of(config.objective):
        raise InputError("objective", None, f"what to look for: a metric of results.json, such as {EXAMPLE}")
    if config.detach:
        raise InputError("detach", True, "false: a search waits for what its members come to, to draw the next")
