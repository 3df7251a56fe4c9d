"""Sweeps that a queue takes in portions or does not requeue, and that are edited and cancelled while they are in it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.code import code_digest
from masked_sae.sweeps.jobs import sent_jobs
from support.composing import small_overrides
from support.making import ROOT
from support.slurm import LONG, ON_SLURM, PACKED, TRAIN, Sweep, assert_same_runs

Start = Callable[[str], dict[str, str]]
THREE = ["mask.token.rate=0.1", "sae.k=4,8,16", "pack=1", "eval=none"]


@pytest.fixture
def environment(start_slurm: Start) -> dict[str, str]:
    return start_slurm("user")


def status(sweep: Sweep, *settings: str) -> str:
    command = [sys.executable, "-m", "src.status", str(sweep.folder), *settings]
    return subprocess.run(
        command, cwd=ROOT, env=sweep.environment, text=True, capture_output=True, check=True, timeout=200
    ).stdout


def test_jobs_train_with_the_code_of_their_submission_whatever_is_edited(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    for name in ("src", "conf", "sweeps"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    own = environment | {"PYTHONPATH": str(checkout / "src")}
    sweep = Sweep(neox_folder, corpus_folder, tmp_path, own, "mask.token.rate=0.1", "eval=none", cwd=checkout)
    process = sweep.start("+hydra.launcher.additional_parameters.hold=true")
    created = sweep.wait_for("created", step=0)
    while not (job := sweep.states()[created.run_id].job_id):
        time.sleep(0.2)
    edited = checkout / "src" / "masked_sae" / "training" / "sae_training.py"
    edited.write_text(edited.read_text() + "\nraise RuntimeError('edited')\n")
    subprocess.run(["scontrol", "release", job], env=environment, check=True, capture_output=True)
    done = sweep.end(process)
    assert done.returncode == 0, done.stdout + done.stderr
    (attempt,) = read_attempts(sweep.folder / created.run_id / "attempts.json")
    assert attempt.code == code_digest()
    (copy,) = sweep.folder.glob(".code/*/src/masked_sae")
    assert f"code {copy.parents[1]}" in status(sweep, f"log={created.run_id}")


def test_what_the_queue_has_no_room_for_is_taken_over_by_the_jobs_that_end(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    """A user who may have two jobs in the queue; and arrays have at most two."""
    own = environment | {"PATH": f"{refusing_more_than(2, tmp_path / 'bin')}:{os.environ['PATH']}"}
    sweep = Sweep(neox_folder, corpus_folder, tmp_path, own, *THREE, "detach=true")
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    assert "sae.k=16: waits for room in the queue" in done.stdout
    assert "no room in the queue for 1 runs: jobs go on with these as they end" in done.stderr
    wait_until(lambda: [state.status for state in sweep.states().values()] == ["done"] * 3, sweep)
    assert "3 runs: 3 done" in status(sweep)


def test_a_submitter_that_is_killed_between_two_arrays_leaves_a_sweep_that_the_next_one_completes(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    folder = refusing_more_than(10, tmp_path / "bin", at_the_second="sleep 60")
    slow = environment | {"PATH": f"{folder}:{os.environ['PATH']}"}
    first = Sweep(neox_folder, corpus_folder, tmp_path, slow, *THREE).start()
    sweep = Sweep(neox_folder, corpus_folder, tmp_path, environment, *THREE)
    wait_until(lambda: (folder / "second").exists(), sweep)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done = sweep.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [state.status for state in sweep.states().values()] == ["done"] * 3
    attempts = [read_attempts(path) for path in sweep.folder.glob("*/attempts.json")]
    assert [len(one) for one in attempts] == [1] * 3, "a run was submitted twice"


def test_a_member_that_is_cancelled_leaves_its_pack_and_ends_in_the_same_bits_when_it_is_started_again(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    alone = Sweep(neox_folder, corpus_folder, tmp_path / "alone", None, *PACKED)
    assert alone.run().returncode == 0
    sweep = Sweep(neox_folder, corpus_folder, tmp_path, environment, *PACKED)
    process = sweep.start()
    sweep.wait_for("running", step=20)
    assert "sae.k=8: cancelled" in status(sweep, "cancel=k8-")
    done = sweep.end(process)
    assert done.returncode == 130, done.stdout + done.stderr
    assert sorted(state.status for state in sweep.states().values()) == ["cancelled", "done", "done"]

    process = sweep.start()
    sweep.wait_for("running", step=20)
    assert "sae.k=8: cancelled" in status(sweep, "cancel=all")
    assert sweep.end(process).returncode == 130
    queue = subprocess.run(["squeue", "--noheader"], env=environment, text=True, capture_output=True, check=True)
    assert queue.stdout == ""
    assert sweep.run().returncode == 0
    assert_same_runs(sweep.folder, alone.folder)


def test_a_sweep_of_fewer_values_says_what_is_left_over_and_prunes_its_jobs(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    held = ["mask.token.rate=0.1", "pack=1", "detach=true", "+hydra.launcher.additional_parameters.hold=true"]
    sweep = Sweep(neox_folder, corpus_folder, tmp_path, environment, *held)
    assert sweep.run("sae.k=4,8,16").returncode == 0
    (left_over,) = (name for name in sweep.states() if "k16-" in name)
    said = f"also has 1 that this command does not: {left_over}; 1 of them in the queue"
    assert f"{said} (prune=true cancels these)" in sweep.run("sae.k=4,8").stderr
    pruned = sweep.run("sae.k=4,8", "prune=true")
    assert said in pruned.stderr and "sae.k=16: cancelled" in pruned.stdout
    assert {name: state.status for name, state in sweep.states().items()}[left_over] == "cancelled"
    assert "sae.k=4: cancelled" in status(sweep, "cancel=all")


@pytest.mark.long
@pytest.mark.timeout(600)  # four commands and five jobs, each of which reads in its libraries
def test_a_chain_goes_on_from_job_to_job_where_none_is_requeued(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    whole = Sweep(neox_folder, corpus_folder, tmp_path / "whole", None, *LONG)
    assert whole.run().returncode == 0
    sweep = Sweep(neox_folder, corpus_folder, tmp_path, environment, *LONG, "hydra.launcher.timeout_min=null")
    jobs: list[str] = []

    def end_link() -> None:
        """What SLURM itself sends when the time is up, but at this moment."""
        state = sweep.wait_for("running", step=100 * len(jobs) + 100)
        jobs.append(str(state.job_id))
        shown = subprocess.run(
            ["scontrol", "show", "job", jobs[-1]], env=environment, text=True, capture_output=True, check=True
        ).stdout
        assert "Requeue=0" in shown and "TimeLimit=01:00:00" in shown, "the partition's limit, and no requeueing"
        subprocess.run(["scancel", "--signal=USR2", jobs[-1]], env=environment, check=True, capture_output=True)
        wait_until(lambda: next(iter(sweep.states().values())).status != "running", sweep)

    refused = sweep.start("hydra.launcher.chain=1")  # a chain of one is requeued
    sweep.wait_for("running", step=100)
    status(sweep, "cancel=all")
    assert sweep.end(refused).returncode == 130
    process = sweep.start("hydra.launcher.chain=2")
    end_link()
    end_link()
    done = sweep.end(process)
    assert done.returncode == 1
    assert "not done when the last of 2 jobs (hydra.launcher.chain) ended" in done.stdout
    last = sweep.run("hydra.launcher.chain=3")
    assert last.returncode == 0, last.stdout + last.stderr
    assert len(set(jobs)) == 2
    assert_same_runs(sweep.folder, whole.folder)


@pytest.mark.long
def test_a_search_whose_command_was_killed_goes_on_with_the_job_that_it_had_sent(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    small = [*small_overrides(neox_folder, corpus_folder, tmp_path), *ON_SLURM]
    searching = [*TRAIN, "+sweep=search", *small, "eval.families=[core]", "objective=core/explained_variance"]
    searching += ["hydra.sweeper.n_trials=2", "hydra.sweeper.at_once=1", "-m"]
    held = [*searching, "+hydra.launcher.additional_parameters.hold=true"]
    first = subprocess.Popen(held, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sweep = tmp_path / "runs" / "search"
    while not (sent := [job for jobs in sent_jobs(sweep).values() for one in jobs for job in one.ids]):
        assert first.poll() is None
        time.sleep(0.2)
    first.kill()
    first.wait()
    second = subprocess.Popen(searching, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)
    assert second.stdout is not None
    assert f"in the queue already, as SLURM job {sent[0]}" in second.stdout.readline()
    subprocess.run(["scontrol", "release", sent[0]], env=environment, check=True, capture_output=True)
    said, _ = second.communicate(timeout=250)
    assert second.returncode == 0 and "2 trials: 2 complete" in said
    assert [len(read_attempts(path)) for path in sweep.glob("*/attempts.json")] == [1, 1]


def refusing_more_than(count: int, folder: Path, at_the_second: str = "") -> Path:
    """A folder with a `sbatch` that refuses as a cluster does whose users may have so many jobs in the queue.

    Args:
        at_the_second: what the second call does first, having left a mark.
    """
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text(f"""#!/bin/bash
if [ -e {folder}/first ]; then touch {folder}/second; {at_the_second or ":"}; fi
touch {folder}/first
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
if [ $(( $(squeue --noheader --array --me | wc -l) + ${{last:-0}} + 1 )) -gt {count} ]; then
    echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2
    exit 1
fi
exec {shutil.which("sbatch")} "$@"
""")
    script.chmod(0o755)
    return folder


def wait_until(found: Callable[[], bool], sweep: Sweep) -> None:
    deadline = time.monotonic() + 200
    while not found():
        assert time.monotonic() < deadline, sweep.states()
        time.sleep(0.2)
