"""Why a job of SLURM's ended before its runs did, as far as its log or the controller tells."""

from pathlib import Path

from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState
from masked_sae.sweeps.jobs import SentJobs, sent_jobs
from masked_sae.sweeps.slurm_queue import ended_for_memory, says_memory_ran_out
from masked_sae.training.out_of_memory import JOB, killed

_LAST_BYTES = 1 << 16  # of a log, where SLURM says it


def why_job_ended(run: Run, state: RunState) -> str:
    """One line, of a run that could not say it.

    Args:
        state: that it left behind.
    """
    sent = sent_jobs(run.folder.path.parent)
    latest = sent[run.folder.run_id][-1] if run.folder.run_id in sent else None
    job = state.job_id or (latest.ids[-1] if latest else None)
    if job is not None and ((latest is not None and _says_memory_ran_out(latest)) or ended_for_memory(job)):
        together = sum(others[-1] == latest for others in sent.values()) or 1
        return f"SLURM job {job} was ended for want of memory, {killed(run, state, JOB, together)}"
    return f"SLURM job {state.job_id} ended before the run did (it was {state.status})"


def _says_memory_ran_out(sent: SentJobs) -> bool:
    return any(says_memory_ran_out(_end_of(log)) for log in sent.logs())


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_BYTES))
        return file.read().decode(errors="replace")
