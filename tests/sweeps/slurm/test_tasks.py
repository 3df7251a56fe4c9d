"""Jobs of several tasks: the members of a sweep, each trained by two processes that SLURM starts."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from masked_sae.runs.attempts import read_attempts
from support.slurm import PACKED, Sweep

TWO_TASKS = [
    *PACKED,
    "data.train_tokens=200_000",
    "sae.k=4",
    "mask.token.rate=0,0.1",
    "trainer.devices=2",
    "trainer.threads=1",
    "eval=quick",
]


@pytest.fixture
def environment(start_slurm: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return start_slurm("user")


@pytest.mark.long
def test_preempted_and_requeued_two_tasks_end_as_one_process_does(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    sweep = Sweep(neox_folder, corpus_folder, tmp_path / "two", environment, *TWO_TASKS)
    process = sweep.start()
    state = sweep.wait_for("running", step=20)
    asked = ["squeue", "--noheader", "--format=%C", f"--jobs={state.job_id}"]
    shown = subprocess.run(asked, env=environment, text=True, capture_output=True)
    assert shown.stdout.strip() == "2", shown  # a CPU for each task
    urgent = ["sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 2"]
    subprocess.run(urgent, env=environment, check=True, capture_output=True)
    done = sweep.end(process)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "preempted" in done.stdout

    alone = Sweep(neox_folder, corpus_folder, tmp_path / "one", None, *TWO_TASKS, "trainer.devices=1")
    assert alone.run().returncode == 0
    names = sorted(path.parent.name for path in alone.folder.glob("*/results.json"))
    assert len(names) == 2
    attempts = {name: read_attempts(sweep.folder / name / "attempts.json") for name in names}
    assert all(one.ranks == 2 for some in attempts.values() for one in some)
    assert len(attempts[state.run_id]) >= 2  # the one that was preempted
    for name in names:
        ours, theirs = (
            json.loads((folder / name / "results.json").read_text())["metrics"]
            for folder in (sweep.folder, alone.folder)
        )
        for metric in ("core/explained_variance", "core/l0"):
            assert ours[metric] == pytest.approx(theirs[metric], rel=2e-3), metric


def test_a_launcher_that_is_told_of_other_tasks_is_refused(
    environment: dict[str, str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    sweep = Sweep(neox_folder, corpus_folder, tmp_path, environment, *TWO_TASKS, "hydra.launcher.tasks_per_node=3")
    done = sweep.run()
    assert done.returncode == 2
    assert "hydra.launcher.tasks_per_node=3: expected null, or 2 as trainer.devices has it" in done.stderr
    assert not list(sweep.folder.glob("*/state.json"))
