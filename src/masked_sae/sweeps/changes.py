"""A line on the screen whenever a member's state changes."""

import time
from collections.abc import Sequence

from masked_sae.runs.sweep_record import Member
from masked_sae.sweeps.summary import find_state, status_of


class StateChanges:
    """What was shown of each member.

    Args:
        known: members whose state as it is now is no news; but for one that says `running`, of a process that is gone.
    """

    def __init__(self, known: Sequence[Member] = ()) -> None:
        found = {member.folder.path: status_of(find_state(member.folder)) for member in known}
        self._shown = {path: status for path, status in found.items() if status != "running"}

    def show(self, members: Sequence[Member]) -> None:
        for member in members:
            status = status_of(find_state(member.folder))
            if self._shown.get(member.folder.path) != status:
                self._shown[member.folder.path] = status
                print(f"{time.strftime('%H:%M:%S')} {member.label}: {status}", flush=True)
