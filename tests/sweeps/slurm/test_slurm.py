"""Sweeps on a real SLURM end as they do on one undisturbed machine, whatever befalls their jobs."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.state import RunState
from support.extending import write_examples
from support.making import ROOT
from support.slurm import LONG, PACKED, Sweep, assert_same_runs

# Never ends by itself.
ENDLESS = [*LONG, "data.train_tokens=100_000_000"]

Start = Callable[[str], dict[str, str]]


@pytest.fixture
def environment(start_slurm: Start) -> dict[str, str]:
    return start_slurm("user")


def test_a_sweep_on_slurm_equals_the_same_sweep_here_and_starting_it_again_does_what_is_left(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    rates = "mask.token.rate=0,0.1,0.3"
    here = Sweep(neox_folder, corpus_folder, tmp_path / "here", None, rates)
    assert here.run().returncode == 0
    python = tmp_path / "python"  # as a container's would be, a command
    python.write_text(f'#!/bin/sh\ntouch "$0.used"\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    own = ["hydra.launcher.cpus_per_task=2", f"hydra.launcher.python={python}"]
    there = Sweep(neox_folder, corpus_folder, tmp_path / "there", environment, rates, *own)
    done = there.run()
    assert done.returncode == 0, done.stderr
    for attempts in (read_attempts(path) for path in there.folder.glob("*/attempts.json")):
        assert [attempt.cpus for attempt in attempts] == ["0-1"], "SLURM 22.05's srun gives a job one CPU"
    assert python.with_name("python.used").exists()
    assert any(" CPUs 0-1, code " in log.read_text() for log in there.folder.glob(".submitit/*/*.out"))
    assert "sacct" not in done.stdout + done.stderr
    assert [state.status for state in there.states().values()] == ["done"] * 3
    assert all(state.job_id for state in there.states().values())
    assert_same_runs(there.folder, here.folder)

    before = there.states()
    started = time.monotonic()
    assert there.run().returncode == 0
    assert time.monotonic() - started < 30
    assert there.states() == before

    gone, *others = sorted(before)
    shutil.rmtree(there.folder / gone)
    assert there.run().returncode == 0
    assert_same_runs(there.folder, here.folder)
    assert [there.states()[name] for name in others] == [before[name] for name in others]


def test_a_member_that_fails_is_named_and_the_others_are_done(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    sweep = Sweep(neox_folder, corpus_folder, tmp_path, environment, "optim.gradient_clip=0")
    done = sweep.run("mask.token.rate=0.1", "optim.lr=0.001,1e30")
    assert done.returncode == 1
    assert sorted(state.status for state in sweep.states().values()) == ["done", "failed"]
    assert "optim.lr=1e+30" in done.stdout and "the loss is" in done.stdout
    assert "1 of 2 runs failed" in done.stderr


def test_a_detached_sweep_returns_at_once_and_says_how_to_look_and_is_submitted_from_within_a_job_too(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    sweep = Sweep(neox_folder, corpus_folder, tmp_path, environment, "mask.token.rate=0.1", "detach=true")
    done = sweep.run()
    assert done.returncode == 0 and f"python -m src.status {sweep.folder}" in done.stdout
    sweep.wait_for("done", step=24)
    within = Sweep(neox_folder, corpus_folder, tmp_path / "within", environment, "mask.token.rate=0.1", "detach=true")
    within.run_in_a_job()
    within.wait_for("done", step=24)
    assert_same_runs(within.folder, sweep.folder)
    table = subprocess.run(
        [sys.executable, "-m", "src.status", str(sweep.folder)], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert "done" in table.stdout and "100%" in table.stdout


def test_other_text_on_the_node_than_the_run_was_named_for_fails_it_with_both_digests(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    """The job used to train under another name, while the launcher watched the first and called it failed."""
    corpus = shutil.copytree(corpus_folder, tmp_path / "corpus")
    held = "+hydra.launcher.additional_parameters.hold=true"
    sweep = Sweep(neox_folder, corpus, tmp_path, environment, "mask.token.rate=0.1", held)
    process = sweep.start()
    created = sweep.wait_for("created", step=0)
    (corpus / "more.txt").write_text("other words\n")
    while not (job := sweep.states()[created.run_id].job_id):
        time.sleep(0.2)
    subprocess.run(["scontrol", "release", job], env=environment, check=True, capture_output=True)
    done = sweep.end(process)
    assert done.returncode == 1 and "1 of 1 runs failed" in done.stderr
    (state,) = sweep.states().values()
    assert state.run_id == created.run_id and state.status == "failed" and state.error is not None
    assert state.error.startswith(f"data.path={corpus}: expected the text that {created.run_id} was named for (digest ")
    assert "here it is text/" in state.error and not (sweep.folder / created.run_id / "checkpoints").exists()


def test_somebodys_own_architecture_mask_and_metric_train_there_as_here(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    """From a folder of their own, with the examples of docs/extending.md."""
    project = write_examples(tmp_path / "my_project")
    own = ["--config-dir", "conf", "sae=log_relu", "mask=swap", "eval=mine"]
    sweeps = [
        Sweep(neox_folder, corpus_folder, tmp_path / place, there, *own, "mask.swap.rate=0,0.2", "mask.token.rate=0",
              without_k=True, cwd=project)
        for place, there in (("here", None), ("there", environment))
    ]  # fmt: skip
    for sweep in sweeps:
        done = sweep.run()
        assert done.returncode == 0, done.stdout + done.stderr
    here, there = (sweep.folder for sweep in sweeps)
    assert_same_runs(there, here)
    assert all("co_activation/jaccard" in path.read_text() for path in there.glob("*/results.json"))


class TestPacked:
    """Three runs that share their forwards, as one job, against each alone."""

    @pytest.fixture(scope="class")
    def alone(self, neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        sweep = Sweep(neox_folder, corpus_folder, tmp_path_factory.mktemp("alone"), None, *PACKED, "pack=1")
        done = sweep.run()
        assert done.returncode == 0, done.stderr
        return sweep.folder

    @pytest.mark.long
    def test_a_preempted_pack_and_one_with_a_member_deleted_end_in_the_same_bits(
        self, environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path, alone: Path
    ) -> None:
        sweep = Sweep(neox_folder, corpus_folder, tmp_path, environment, *PACKED)
        process = sweep.start()
        sweep.wait_for("running", step=20)
        urgent = ["sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 2"]
        subprocess.run(urgent, env=environment, check=True, capture_output=True)
        done = sweep.end(process)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "preempted" in done.stdout and "sae.k=4,8,16: SLURM job " in done.stdout
        assert len({state.job_id for state in sweep.states().values()}) == 1
        assert_same_runs(sweep.folder, alone)

        before = sweep.states()
        gone, *others = sorted(before)
        shutil.rmtree(sweep.folder / gone)
        assert sweep.run().returncode == 0
        assert_same_runs(sweep.folder, alone)
        assert [sweep.states()[name] for name in others] == [before[name] for name in others]

    def test_a_number_of_jobs_at_once_spreads_the_members_over_so_many(
        self, environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
    ) -> None:
        two = ["sae.k=4,8,16", "mask.token.rate=0.1", "hydra.launcher.array_parallelism=2", "eval=none"]
        sweep = Sweep(neox_folder, corpus_folder, tmp_path, environment, *two)
        done = sweep.run()
        assert done.returncode == 0, done.stderr
        jobs = [state.job_id for state in sweep.states().values()]
        assert sorted(jobs.count(job) for job in set(jobs)) == [1, 2]


class TestInterrupted:
    """A long run, interrupted in every way a cluster knows, against one that was not."""

    @pytest.fixture(scope="class")
    def undisturbed(self, neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        sweep = Sweep(neox_folder, corpus_folder, tmp_path_factory.mktemp("whole"), None, *LONG)
        done = sweep.run()
        assert done.returncode == 0, done.stderr
        return sweep.folder

    @pytest.fixture
    def sweep_of_one(self, neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Callable[..., Sweep]:
        """Such a run as a sweep of one, on a cluster."""

        def make(environment: dict[str, str], *settings: str) -> Sweep:
            return Sweep(neox_folder, corpus_folder, tmp_path, environment, "logger.wandb.mode=offline", *settings)

        return make

    @pytest.mark.parametrize("preempt_signal", ["user", pytest.param("term", marks=pytest.mark.long)])
    def test_preempted_by_an_urgent_job(
        self, preempt_signal: str, start_slurm: Start, sweep_of_one: Callable[..., Sweep], undisturbed: Path
    ) -> None:
        urgent = ["sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 2"]
        preempted = sweep_of_one(start_slurm(preempt_signal), *LONG)
        before = end_interrupted(preempted, lambda state: urgent)
        assert_resumed(preempted, before, undisturbed)

    @pytest.mark.long
    def test_requeued_by_hand(
        self, environment: dict[str, str], sweep_of_one: Callable[..., Sweep], undisturbed: Path
    ) -> None:
        requeued = sweep_of_one(environment, *LONG)
        before = end_interrupted(requeued, lambda state: ["scontrol", "requeue", str(state.job_id)])
        assert_resumed(requeued, before, undisturbed)

    @pytest.mark.long
    def test_out_of_time_once_too_often_it_fails_plainly_and_allowed_more_it_finishes(
        self, environment: dict[str, str], sweep_of_one: Callable[..., Sweep], undisturbed: Path
    ) -> None:
        limited = sweep_of_one(environment, *LONG, "hydra.launcher.timeout_min=10")

        def warn(state: RunState) -> Sequence[str]:
            """What SLURM itself sends, but at this moment."""
            return ["scancel", "--signal=USR2", str(state.job_id)]

        refused = limited.start("hydra.launcher.max_num_timeout=0")
        interrupt(limited, warn)
        assert_failed_by_time(limited, limited.end(refused))
        before = end_interrupted(limited, warn, "hydra.launcher.max_num_timeout=1")
        assert_resumed(limited, before, undisturbed)

    @pytest.mark.long
    def test_slurm_itself_warns_it_of_the_time_limit_soon_enough_for_a_checkpoint(
        self, environment: dict[str, str], sweep_of_one: Callable[..., Sweep]
    ) -> None:
        endless = sweep_of_one(
            environment, *ENDLESS, "hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=20"
        )
        process = endless.start("hydra.launcher.max_num_timeout=0")
        end = "EndTime=now+60"  # SLURM looks twice a minute, so its warning comes in 10 to 40 seconds
        interrupt(endless, lambda state: ["scontrol", "update", f"JobId={state.job_id}", end])
        assert_failed_by_time(endless, endless.end(process))


def interrupt(sweep: Sweep, command: Callable[[RunState], Sequence[str]]) -> set[str]:
    """Does it to the sweep's only run once that has begun a while ago; the W&B sessions there were before."""
    earlier = [state.step for state in sweep.states().values()]
    state = sweep.wait_for("running", step=100 + sum(earlier))
    before = wandb_sessions(sweep)
    subprocess.run(command(state), env=sweep.environment, check=True, capture_output=True)
    return before


def end_interrupted(sweep: Sweep, command: Callable[[RunState], Sequence[str]], *settings: str) -> set[str]:
    process = sweep.start(*settings)
    before = interrupt(sweep, command)
    done = sweep.end(process)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "preempted" in done.stdout or "running" in done.stdout
    return before


def wandb_sessions(sweep: Sweep) -> set[str]:
    return {path.name for path in sweep.folder.glob("*/wandb/offline-run-*")}


def assert_resumed(sweep: Sweep, before: set[str], undisturbed: Path) -> None:
    assert_same_runs(sweep.folder, undisturbed)
    (after,) = wandb_sessions(sweep)  # a resumed run's session takes the place of those before it
    assert before and after not in before, "the job was not interrupted"
    assert {name.split("-", 3)[3] for name in (*before, after)} == {after.split("-", 3)[3]}, "more than one W&B run"


def assert_failed_by_time(sweep: Sweep, done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 1
    (state,) = sweep.states().values()
    assert state.status == "failed" and state.error is not None and "max_num_timeout" in state.error
    assert state.step > 0
