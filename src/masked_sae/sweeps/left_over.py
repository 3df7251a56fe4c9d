"""Members of a sweep's folder that are not of the command at hand: said, and their jobs ended where that is asked."""

from collections.abc import Sequence
from pathlib import Path

from masked_sae.errors import notice
from masked_sae.runs.run import Run
from masked_sae.runs.state import ENDED
from masked_sae.runs.sweep_record import Member, read_members
from masked_sae.sweeps.jobs import jobs_in_queue, sent_jobs
from masked_sae.sweeps.slurm_queue import queued_jobs
from masked_sae.sweeps.steering import cancel_members
from masked_sae.training.done import known_state

_FEW = 3


def tell_left_over(sweep: Path, runs: Sequence[Run], *, prune: bool) -> None:
    """Says which other members the sweep's folder has.

    Args:
        prune: whether to cancel those that have jobs in the queue. Their folders stay.
    """
    ours = {run.folder.run_id for run in runs}
    others = [member for member in read_members(sweep) if member.folder.run_id not in ours]
    if not others:
        return
    in_queue = _in_queue(sweep, others)
    named = ", ".join(member.folder.run_id for member in others[:_FEW])
    more = f" and {len(others) - _FEW} more" if len(others) > _FEW else ""
    jobs = f"; {len(in_queue)} of them in the queue" if in_queue else ""
    how = " (prune=true cancels these)" if in_queue and not prune else ""
    notice(f"{sweep} also has {len(others)} that this command does not: {named}{more}{jobs}{how}")
    if prune:
        cancel_members(sweep, in_queue)


def _in_queue(sweep: Path, members: Sequence[Member]) -> list[Member]:
    left = [member for member in members if (state := known_state(member.folder)) and state.status not in ENDED]
    sent = sent_jobs(sweep)
    if not any(member.folder.run_id in sent for member in left):
        return []
    in_queue = jobs_in_queue(sweep, queued_jobs())
    return [member for member in left if member.folder.run_id in in_queue]
