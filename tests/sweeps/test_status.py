"""`python -m src.status` reads run folders alone."""

import subprocess
import sys
from pathlib import Path

from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import RunState, write_state
from masked_sae.runs.sweep_record import Member, read_members, record_members
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
    write_state(tmp_path / "a" / "state.json", running, metrics={"loss": 0.5, "l0": 16.0, "explained_variance": 0.75})
    write_state(
        tmp_path / "b" / "state.json", RunState("b", "failed"), error="the loss is nan at step 7", job_id="12_3"
    )
    shown = status(str(tmp_path))
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["0", "running", "25%", "50", "0:02:30", "0.5", "16", "0.75", "-"]
    assert lines[2].split()[:2] == ["0.1", "failed"] and lines[2].split()[-1] == "12_3"
    assert lines[3].split()[:2] == ["0.3", "missing"]
    assert any("failed: mask.token.rate=0.1: the loss is nan at step 7" in line for line in lines)


def test_a_folder_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    shown = status(str(tmp_path / "nothing"))
    assert shown.returncode != 0 and len(shown.stderr.splitlines()) == 1


def test_recording_again_forgets_no_member(tmp_path: Path) -> None:
    first, second = (Member(RunFolder(tmp_path / name), {"seed": name}) for name in "ab")
    record_members(tmp_path, [first])
    record_members(tmp_path, [second])
    assert [member.folder.run_id for member in read_members(tmp_path)] == ["a", "b"]
