"""The members of a sweep on this machine, and two commands on one run."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.runs.carried import carried
from masked_sae.runs.run import make_run
from masked_sae.runs.state import RunState, read_state, write_state
from masked_sae.runs.sweep_record import read_commands, read_members
from masked_sae.sweeps.local import make_runs, train_here
from masked_sae.sweeps.pack_job import PackJob
from masked_sae.sweeps.packs import train_members
from masked_sae.sweeps.slurm import submit_and_wait, wanting_training
from support.composing import ROOT, small_config, small_overrides
from support.processes import assert_same_run, runs_at

pytestmark = pytest.mark.slow


@pytest.fixture
def config(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    return small_config(neox_folder, corpus_folder, tmp_path, "name=sweep", "optim.gradient_clip=0")


def test_a_member_that_fails_is_named_and_the_others_are_done(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    members = runs_at(config, 1e-3, 1e30, 2e-3)
    with pytest.raises(SystemExit) as ended:
        train_here(members)
    assert ended.value.code == 1
    states = [read_state(run.folder.state) for run in members]
    assert [state.status for state in states if state is not None] == ["done", "failed", "done"]
    said = capsys.readouterr()
    assert "failed: optim.lr=1e+30: the loss is" in said.out and "1 of 3 runs failed" in said.err
    sweep = members[0].folder.path.parent
    assert [member.swept["optim.lr"] for member in read_members(sweep)] == ["0.001", "1e+30", "0.002"]


def test_members_that_are_the_same_run_are_one_and_this_is_said(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = make_runs([(config, {"seed": "0"}), (replace(config, seed=1), {"seed": "1"}), (config, {"seed": "00"})])
    assert [run.label for run in runs] == ["seed=0", "seed=1"]
    assert capsys.readouterr().err == "note: 2 runs, not 3: the same as another are seed=00\n"


def test_a_submission_that_is_refused_leaves_nothing_on_record_and_names_the_launcher(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM here
    members = runs_at(config, 1e-3, 2e-3)
    sweep = members[0].folder.path.parent
    settings = {"submitit_folder": str(tmp_path / "logs"), "max_num_timeout": 1, "name": "sweep"}
    with pytest.raises(InputError, match=r"^hydra/launcher=lab: expected a cluster that takes the job"):
        submit_and_wait(members, settings, ["seed=1"], launcher="lab")
    assert read_members(sweep) == [] and read_commands(sweep) == []
    assert not any(run.folder.path.exists() for run in members)
    with pytest.raises(
        InputError, match=r"^sae\.d_sae=64: expected less: .* a job has \(hydra.launcher.mem_gb=1e-05\)"
    ):
        submit_and_wait(members, {**settings, "mem_gb": 1e-5})


def test_a_sweep_started_again_trains_what_is_missing_alone(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(runs_at(config, 1e-3))
    (first,) = runs_at(config, 1e-3)
    before = first.folder.results.stat().st_mtime_ns
    capsys.readouterr()
    train_here(runs_at(config, 1e-3, 2e-3))
    assert capsys.readouterr().out.startswith("1 of 2 runs are done\n[2/2] optim.lr=0.002\n")
    assert first.folder.results.stat().st_mtime_ns == before
    assert all(run.folder.results.exists() for run in runs_at(config, 2e-3))


def test_packed_and_alone_a_sweep_ends_in_the_same_bits(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swept = [{"mask.token.rate": rate, "sae.k": k} for rate in ("0", "0.2") for k in ("4", "8")]
    made = {
        pack: make_runs([
            (small_config(neox_folder, corpus_folder, tmp_path, f"name=pack_{pack}", f"pack={pack}", "eval=none",
                          *(f"{key}={value}" for key, value in one.items())), one)
            for one in swept
        ])
        for pack in ("auto", "1")
    }  # fmt: skip
    said = {}
    for pack, runs in made.items():
        train_here(runs)
        said[pack] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert said["auto"] == ["[1-2/4] mask.token.rate=0, sae.k=4,8", "[3-4/4] mask.token.rate=0.2, sae.k=4,8"]
    assert said["1"][2] == "[3/4] mask.token.rate=0.2, sae.k=4" and len(said["1"]) == 4
    for ours, theirs in zip(made["auto"], made["1"], strict=True):
        assert ours.folder.run_id == theirs.folder.run_id
        assert_same_run(ours.folder, theirs.folder)


def test_a_job_that_begins_again_does_what_is_left_of_its_pack(config: RunConfig) -> None:
    first, failing, last = members = runs_at(config, 1e-3, 1e30, 2e-3)
    assert wanting_training(members) == members
    job = PackJob([carried(run) for run in members], None, str(first.folder.path.parent))
    assert job() == "done, failed, done"
    before = [run.folder.state.read_text() for run in (failing, last)]
    shutil.rmtree(first.folder.path)
    assert job() == "done, done"
    assert [run.folder.state.read_text() for run in (failing, last)] == before
    assert first.folder.results.exists()


def test_a_resume_that_cannot_begin_keeps_the_progress_and_says_why(config: RunConfig) -> None:
    (run,) = runs_at(config, 1e-3)
    interrupted = RunState(run.folder.run_id, "preempted", step=7, steps=24)
    write_state(run.folder.state, interrupted, error="last week's")
    elsewhere = replace(run.config, lm=replace(run.config.lm, hook_name="blocks.9.nothing"))
    broken = make_run(elsewhere, run.swept)
    write_state(broken.folder.state, interrupted, error="last week's")
    (state,) = train_members([broken])
    assert state is not None and (state.status, state.step, state.steps) == ("failed", 7, 24)
    assert state.error is not None and state.error.startswith("lm.hook_name=blocks.9.nothing")


def test_a_launcher_inside_a_job_does_not_take_its_own_job_for_the_members(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    (run,) = runs_at(config, 1e-3)
    for _ in range(2):
        assert wanting_training([run]) == [run]
        state = read_state(run.folder.state)
        assert state is not None and (state.status, state.job_id) == ("created", None)


def test_of_two_commands_on_one_run_one_trains_and_the_other_says_who_holds_it(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    long = ["data.train_tokens=640000", "data.max_epochs=10000", "trainer.checkpoint_every_steps=100"]
    command = [sys.executable, "-m", "src.train", *small_overrides(neox_folder, corpus_folder, tmp_path), *long]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "runs").glob("train/*/checkpoints/last.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.1)
    second = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=200)
    assert first.poll() is None, "the first ended too early to be in the way"
    assert second.returncode == 0, second.stderr
    assert f"is held by process {first.pid} on " in second.stdout
    first.terminate()
    assert first.wait(timeout=200) == 130
    (path,) = (tmp_path / "runs").glob("train/*/state.json")
    state = read_state(path)
    assert state is not None and state.status == "preempted"
