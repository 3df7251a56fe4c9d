"""`python -m src.status` reads run folders alone."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import RunState, Status, read_state, write_state
from masked_sae.runs.sweep_record import Member, read_members, record_members
from masked_sae.sweeps.jobs import note_sent
from masked_sae.sweeps.status import view
from support.composing import ROOT


def status(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "src.status", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True)


def test_it_shows_every_member_missing_ones_too(tmp_path: Path) -> None:
    members = [
        Member(RunFolder(tmp_path / name), {"mask.token.rate": rate}) for name, rate in [("a", "0"), ("b", "0.1")]
    ]
    members.append(Member(RunFolder(tmp_path / "c"), {"mask.token.rate": "0.3"}))
    record_members(tmp_path, members)
    running = RunState("a", "running", step=25, steps=100, tokens=2500, tokens_per_second=50.0)
    attempt = {"began": "", "step": 0, "commit": "", "versions": {}, "device": "", "threads": 1}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "attempts.json").write_text(json.dumps([attempt, attempt]))
    write_state(tmp_path / "a" / "state.json", running, metrics={"loss": 0.5, "l0": 16.0, "explained_variance": 0.75})
    write_state(
        tmp_path / "b" / "state.json", RunState("b", "failed"), error="the loss is nan at step 7", job_id="12_3"
    )
    shown = status(str(tmp_path))
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[3:] == ["state", "done", "tok/s", "left", "seen", "again", "EV", "node", "job"]
    *cells, node, job = lines[1].split()
    assert cells[:5] == ["0", "running", "25%", "50", "0:02:30"] and cells[5].endswith("s")
    assert cells[6:] == ["1", "0.75"] and socket.gethostname().startswith(node) and job == "-"
    assert lines[2].split()[:2] == ["0.1", "failed"] and lines[2].split()[-1] == "12_3"
    assert lines[3].split()[:2] == ["0.3", "missing"]
    assert lines[4] == ("3 runs: 1 running, 1 failed, 1 missing; 0:02:30 left at 50 tokens/s")
    assert any("failed: mask.token.rate=0.1: the loss is nan at step 7" in line for line in lines)


@pytest.mark.parametrize(("minutes", "note"), [(9, ""), (12, "silent for 12 minutes")])
def test_how_long_a_run_is_silent_does_not_depend_on_its_machines_clock(
    tmp_path: Path, minutes: int, note: str
) -> None:
    state = tmp_path / "a" / "state.json"
    write_state(state, RunState("a", "running"), updated="2100-01-02T03:04:05+00:00")
    heard = time.time() - 60 * minutes
    os.utime(state, (heard, heard))
    console = Console(width=120)
    with console.capture() as shown:
        console.print(view(tmp_path))
    assert ("silent for" in shown.get()) == bool(note) and note in shown.get()


def test_a_folder_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    shown = status(str(tmp_path / "nothing"))
    assert shown.returncode != 0 and len(shown.stderr.splitlines()) == 1


def test_recording_again_forgets_no_member(tmp_path: Path) -> None:
    first, second = (Member(RunFolder(tmp_path / name), {"seed": name}) for name in "ab")
    record_members(tmp_path, [first])
    record_members(tmp_path, [second])
    assert [member.folder.run_id for member in read_members(tmp_path)] == ["a", "b"]


def test_a_silent_run_is_marked(tmp_path: Path) -> None:
    running = RunState("a", "running", step=25, steps=100, tokens=2500)
    write_state(tmp_path / "a" / "state.json", running)
    os.utime(tmp_path / "a" / "state.json", (0, 0))
    shown = status(str(tmp_path)).stdout
    assert "running: a: silent for " in shown and "start the sweep again to go on with it" in shown


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["cancel=k"],
            "cancel=k: expected a run's id, or a part that one run alone has (of which 2 have that: k4, k8)",
        ),
        (["log=x"], "log=x: expected a run's id, or a part that one run alone has (none of which has that: k4, k8)"),
        (["log=k4"], "log=k4: expected a run whose jobs have printed something"),
        (["follow=true"], "follow=true: expected true or false, beside log=RUN"),
        (["cancle=k4"], "cancle: no such key; expected one of log, follow, cancel"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, settings: list[str], line: str) -> None:
    for name in ("k4", "k8"):
        write_state(tmp_path / name / "state.json", RunState(name, "created"))
    shown = status(str(tmp_path), *settings)
    assert shown.returncode != 0 and shown.stderr == f"error: {line}\n"


def test_what_nobody_trains_is_cancelled_at_once_and_the_rest_is_left(tmp_path: Path) -> None:
    for name, now in [("k4-0a", "preempted"), ("k8-0b", "created"), ("k16-0c", "done")]:
        write_state(tmp_path / name / "state.json", RunState(name, cast(Status, now)))
    assert status(str(tmp_path), "cancel=k8").stdout == "k8-0b: cancelled\n"
    assert status(str(tmp_path), "cancel=all").stdout == "k4-0a: cancelled\n"
    states = {path.parent.name: read_state(path) for path in tmp_path.glob("*/state.json")}
    assert {name: state.status for name, state in states.items() if state} == {
        "k4-0a": "cancelled", "k8-0b": "cancelled", "k16-0c": "done",
    }  # fmt: skip


def test_what_the_jobs_of_a_member_printed_is_shown_in_order(tmp_path: Path) -> None:
    write_state(tmp_path / "k4" / "state.json", RunState("k4", "done"))
    folder = str(tmp_path / ".submitit" / "%j")
    note_sent([[tmp_path / "k4"]], [["7_0", "8_0"]], folder)
    for job in ("7_0", "8_0"):
        (tmp_path / ".submitit" / job).mkdir(parents=True)
        (tmp_path / ".submitit" / job / f"{job}_0_log.out").write_text(f"link {job}\n")
    shown = status(str(tmp_path), "log=k4", "follow=true").stdout.splitlines()
    assert [line for line in shown if not line.startswith("==>")] == ["link 7_0", "link 8_0"]


def test_of_very_many_those_that_wait_or_are_done_are_counted(tmp_path: Path) -> None:
    members = [Member(RunFolder(tmp_path / f"seed{seed}"), {"seed": str(seed)}) for seed in range(102)]
    record_members(tmp_path, members)
    for seed, member in enumerate(members):
        now: Status = "failed" if seed == 7 else "done" if seed % 2 else "created"
        write_state(member.folder.state, RunState(member.folder.run_id, now))
    lines = status(str(tmp_path)).stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:2]] == [["7", "failed"]]
    assert lines[2:4] == ["102 runs: 51 created, 50 done, 1 failed", "101 of these are counted, not shown"]
