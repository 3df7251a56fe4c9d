"""Why a job ended that can no longer say it, from what SLURM leaves in its log or knows."""

from pathlib import Path

import pytest

from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import RunState
from masked_sae.sweeps import slurm_queue
from masked_sae.sweeps.job_end import why_job_ended
from masked_sae.sweeps.jobs import note_sent
from masked_sae.sweeps.slurm_queue import says_memory_ran_out
from support.composing import small_config

OF_STEP = "slurmstepd: error: Detected 1 oom_kill event in StepId=71.0. Some of the step tasks have been OOM Killed.\n"
OF_SRUN = "srun: error: node7: task 0: Out Of Memory\n"
OLDER = "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=71.batch cgroup.\n"


@pytest.fixture
def run(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Run:
    return make_run(small_config(neox_folder, corpus_folder, tmp_path), {})


def sent(run: Run, beside: str, log: str) -> None:
    sweep = run.folder.path.parent
    folder = sweep / ".submitit" / "%j"
    note_sent([[run.folder.path, sweep / beside]], [["71_0"]], str(folder))
    (sweep / ".submitit" / "71_0").mkdir(parents=True)
    (sweep / ".submitit" / "71_0" / "71_0_0_log.err").write_text(log)


def state_of(run: Run) -> RunState:
    return RunState(run.folder.run_id, "running", step=10, steps=24, job_id="71_0")


@pytest.mark.parametrize("line", [OF_STEP, OF_SRUN, OLDER])
def test_a_log_tells_that_the_kernel_ended_it(line: str, run: Run) -> None:
    sent(run, "another", f"step 10 of 24\n{line}srun: Terminating StepId=71.0\n")
    said = why_job_ended(run, state_of(run))
    assert said.startswith("SLURM job 71_0 was ended for want of memory, about step 10 of 24 (sae.d_sae=64, ")
    assert "with pack=1, lm.micro_batch_size=4 or more hydra.launcher.mem_gb; a smaller sae.d_sae" in said


@pytest.mark.parametrize(
    "line",
    ["note: sae.k=4: out of memory in a pack of 8: trained on in smaller ones", "srun: error: node7: Killed", ""],
)
def test_other_lines_do_not(line: str, run: Run) -> None:
    assert not says_memory_ran_out(line)
    sent(run, "another", line)
    assert why_job_ended(run, state_of(run)) == "SLURM job 71_0 ended before the run did (it was running)"


def test_the_controller_tells_where_a_log_does_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "JobId=71 ArrayJobId=71 ArrayTaskId=0 JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125"
    monkeypatch.setattr(slurm_queue, "_asked", lambda command: shown if command[-1] == "71_0" else "")
    sent(run, "another", "")
    assert why_job_ended(run, state_of(run)).startswith(
        "SLURM job 71_0 was ended for want of memory, about step 10 of "
    )
