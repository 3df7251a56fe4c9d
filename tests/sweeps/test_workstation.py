"""Sweeps on a workstation: the same bits as one pack after another, whatever befalls the workers or their parent."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout
from rich.console import Console

from hydra_plugins.masked_sae_launchers import WorkstationLauncher
from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.checkpoint import load_checkpoint
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState, read_state, write_state
from masked_sae.sweeps.local import train_here
from masked_sae.sweeps.machine import auto_workers, count_cpus, name_gpus
from masked_sae.sweeps.progress import LiveTable, Pace, Share
from masked_sae.sweeps.workstation import train_on_workstation
from support.composing import ROOT, small_config, small_overrides
from support.processes import assert_same_run, reached, runs_at

RATES = (1e-3, 2e-3)
# A second or two each, with a checkpoint every few steps; and some more.
LONG = ["name=sweep", "pack=1", "eval=none", "data.train_tokens=12_800", "data.max_epochs=1000"]
LONG += ["trainer.log_every_steps=20", "trainer.validate_every_steps=100"]
LONGER = [*LONG, "data.train_tokens=51_200", "trainer.checkpoint_every_steps=20"]


@pytest.fixture
def make(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    def made(out: str, *overrides: str) -> RunConfig:
        return small_config(neox_folder, corpus_folder, tmp_path / out, *overrides)

    return made


@contextmanager
def meanwhile(act: Callable[[], Any]) -> Generator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join(timeout=200)
    assert not thread.is_alive()


def wait_until(holds: Callable[[], bool], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds()


def kill_worker_of(run: Run, after_step: int = 5, not_process: int = 0) -> int:
    """The process that was killed."""

    def trains() -> bool:
        state = read_state(run.folder.state)
        return (
            state is not None
            and state.status == "running"
            and state.step >= after_step
            and state.pid not in (os.getpid(), not_process)
        )

    wait_until(trains)
    state = read_state(run.folder.state)
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    return state.pid


def statuses(runs: list[Run]) -> list[str]:
    return [state.status for run in runs if (state := read_state(run.folder.state)) is not None]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_the_sweep_has_the_bits_that_it_has_here(
    make: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = (runs_at(make(out, *LONG), *RATES, 3e-3) for out in ("here", "there"))
    train_here(here)
    capsys.readouterr()
    with meanwhile(lambda: kill_worker_of(there[0])):
        train_on_workstation(there, 2)
    assert statuses(there) == ["done"] * 3
    for ours, theirs in zip(there, here, strict=True):
        assert ours.folder.run_id == theirs.folder.run_id
        assert_same_run(ours.folder, theirs.folder)
    said, sweep = capsys.readouterr(), there[0].folder.path.parent
    assert said.out.startswith(f"3 packs in 2 workers; their logs: {sweep / '.workers'}\n")
    assert [line.split()[1:] for line in said.out.splitlines() if " optim.lr=0.001: " in line] == [
        ["optim.lr=0.001:", "running"],
        ["optim.lr=0.001:", "done"],
    ]
    assert "note: optim.lr=0.001: its worker was killed by SIGKILL, as by" in said.err
    logs = "".join(log.read_text() for log in sorted(sweep.glob(".workers/*.log")))
    assert sorted(line.split()[-1] for line in logs.splitlines() if ": optim.lr=" in line) == [
        "optim.lr=0.001", "optim.lr=0.001", "optim.lr=0.002", "optim.lr=0.003",
    ]  # fmt: skip


@pytest.mark.long
def test_a_pack_whose_worker_is_killed_twice_has_failed_and_the_others_are_done(
    make: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    killed, other = runs = runs_at(make("out", *LONG), *RATES)

    def kill_twice() -> None:
        kill_worker_of(killed, not_process=kill_worker_of(killed))

    with meanwhile(kill_twice), pytest.raises(SystemExit) as ended:
        train_on_workstation(runs, 2)
    assert ended.value.code == 1 and statuses(runs) == ["failed", "done"]
    state = read_state(killed.folder.state)
    assert state is not None and state.error is not None and ".workers" in state.error
    assert re.match(
        r"its worker was killed by SIGKILL, as by a kernel that is out of memory, about step \d+ of 200 \(sae\.d_sae="
        r"64, .*\): it goes on from its checkpoint with lm\.micro_batch_size=4 or fewer hydra\.launcher\.workers; a "
        r"smaller sae\.d_sae, .* makes it another run, which begins anew; and so did the one before; see ",
        state.error,
    )
    assert "failed: optim.lr=0.001: its worker was killed by SIGKILL" in capsys.readouterr().out
    assert other.folder.results.exists()
    train_on_workstation(runs, 1)
    assert statuses(runs) == ["done", "done"]
    first, *_, last = read_attempts(killed.folder.attempts)
    assert first.step == 0 and last.step > 0


@pytest.mark.long
def test_ctrl_c_and_a_parent_that_is_killed_leave_checkpoints_from_which_it_goes_on_to_the_same_bits(
    make: Callable[..., RunConfig], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    settings = [*small_overrides(neox_folder, corpus_folder, tmp_path / "there"), *LONGER]
    rates = f"optim.lr={','.join(map(str, RATES))}"
    command = [sys.executable, "-m", "src.train", *settings, rates, "-m", "hydra.launcher.workers=2"]
    environment = {**os.environ, "MASKED_SAE_LAUNCHER": "workstation"}
    here, there = (runs_at(make(out, *LONGER), *RATES) for out in ("here", "there"))

    def start() -> "subprocess.Popen[str]":
        """In a process group of its own, which a Ctrl-C is for; it is left while both of its runs are in training."""
        before = [reached(run.folder) for run in there]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, start_new_session=True
        )
        wait_until(lambda: all(reached(run.folder) > step for run, step in zip(there, before, strict=True)))
        return process

    process = start()
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 130 and statuses(there) == ["preempted"] * 2
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("0.00")] == ["preempted"] * 2
    for run in there:
        checkpoint = load_checkpoint(run.folder.checkpoints)
        assert checkpoint is not None and checkpoint.meta["step"] == reached(run.folder) > 0

    process = start()
    process.kill()
    process.communicate(timeout=200)  # until its workers, too, have ended, which hold what it says it in
    wait_until(lambda: all(is_free(run.folder) for run in there))
    assert statuses(there) == ["preempted"] * 2

    train_on_workstation(there, 2)
    train_here(here)
    for ours, theirs in zip(there, here, strict=True):
        assert_same_run(ours.folder, theirs.folder)


def is_free(folder: RunFolder) -> bool:
    try:
        with FileLock(folder.lock, timeout=0):
            return True
    except Timeout:
        return False


@pytest.mark.parametrize("workers", [0, -1, True, 2.5, "two", None, 10**6])
def test_a_number_of_workers_that_cannot_be_is_refused_before_anything_is_read(workers: Any) -> None:
    with pytest.raises(InputError, match=r"^hydra\.launcher\.workers=.*: expected auto, or a whole number from 1 to "):
        WorkstationLauncher(workers).launch([[]], 0)


def test_a_sweep_that_is_to_be_left_alone_needs_slurm(make: Callable[..., RunConfig]) -> None:
    with pytest.raises(InputError, match=r"^detach=True: expected false, unless the sweep goes to SLURM"):
        train_on_workstation(runs_at(make("out", "detach=true"), 1e-3), 2)


@pytest.mark.parametrize(
    ("visible", "count", "named"),
    [
        (None, 2, ["0", "1"]),
        ("3,1", 2, ["3", "1"]),
        ("GPU-8932f937, MIG-a1b2/3/0", 2, ["GPU-8932f937", "MIG-a1b2/3/0"]),
        ("2,-1,0", 1, ["2"]),  # CUDA sees none from the first on that is not there
        ("", 0, []),
    ],
)
def test_each_visible_gpu_is_named_as_the_user_named_it(visible: str | None, count: int, named: list[str]) -> None:
    assert name_gpus(visible, count) == named


def test_cpus_are_those_that_may_be_used_and_a_containers_share_of_their_time(tmp_path: Path) -> None:
    usable = len(os.sched_getaffinity(0))
    assert count_cpus(tmp_path) == usable
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert count_cpus(tmp_path) == usable
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert count_cpus(tmp_path) == 1
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, cpus in (("-1", usable), ("100000", 1)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert count_cpus(tmp_path) == cpus


def test_there_are_as_many_workers_as_have_cpus_for_their_threads_or_a_gpu(make: Callable[..., RunConfig]) -> None:
    runs = runs_at(make("out"), *RATES)
    assert auto_workers(runs, []) == count_cpus()
    threads = replace(runs[0].config.trainer, threads=10_000)
    assert auto_workers([replace(runs[0], config=replace(runs[0].config, trainer=threads)), *runs], []) == 1
    assert auto_workers(runs, ["0", "GPU-8932f937", "7"]) == 3


def test_the_screen_has_a_line_for_each_worker_and_one_for_the_sweep_within_80_columns(
    make: Callable[..., RunConfig],
) -> None:
    made = runs_at(make("out"), *RATES, 3e-3)
    runs = [replace(run, swept={"optim.lr": run.swept["optim.lr"], "mask.token.replacement": "x" * 60}) for run in made]
    screen = LiveTable(runs, runs[1:], Console(file=io.StringIO(), width=80, force_terminal=True))
    for number, run in enumerate(runs[1:]):
        state = RunState(run.folder.run_id, "running", step=25, steps=100, tokens=1600, tokens_per_second=12_345.0)
        write_state(run.folder.state, state)
        screen.look(number, [run])
    write_state(runs[2].folder.state, state, status="done", step=100)
    screen.end(1, runs[2:])
    printed = io.StringIO()
    Console(file=printed, width=80).print(screen.view())
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[:2] == ["0", "optim.lr=0.002,"] and "… " in lines[1] and lines[1].split()[-3] == "25%"
    assert lines[-1].startswith("2 of 3 done")


def test_the_time_left_is_told_from_when_the_first_progress_was_seen() -> None:
    pace = Pace(Share(0.0, 0), 0.0)
    assert pace.left is None and pace.tokens_per_second is None
    pace.note(Share(0.1, 100), 50.0)
    assert pace.left is None and pace.tokens_per_second is None
    pace.note(Share(0.1, 100), 55.0)
    pace.note(Share(0.3, 300), 60.0)
    assert pace.left is not None and pace.left.total_seconds() == 35 and pace.tokens_per_second == 20.0
