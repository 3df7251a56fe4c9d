"""What runs are trained with, on record."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from masked_sae.runs import attempts
from masked_sae.runs.attempts import find_software, note_attempt, read_attempts, usable_cpus

CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "attempts.json"


def test_attempts_are_kept_in_order(path: Path) -> None:
    assert read_attempts(path) == []
    note_attempt(path, 0, CPU, {}, "aa")
    note_attempt(path, 7, CPU, {}, "bb")
    first, second = read_attempts(path)
    assert (first.step, second.step) == (0, 7)
    assert first.software == second.software == find_software()
    assert first.software.versions["torch"] == torch.__version__ and first.software.versions["masked-sae"]
    assert first.cpus == usable_cpus() and first.cpus and (first.code, second.code) == ("aa", "bb")
    assert first.began <= second.began and first.device and first.threads == torch.get_num_threads()


@pytest.mark.parametrize(
    ("cpus", "written"), [({0}, "0"), ({0, 1, 2, 3, 8}, "0-3,8"), ({5, 1, 3}, "1,3,5"), ({0, 1, 4, 5}, "0-1,4-5")]
)
def test_cpus_are_written_as_slurm_writes_them(cpus: set[int], written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus)
    assert usable_cpus() == written


@pytest.mark.parametrize("content", ["", "[{}]", "{}", '[{"step": 1}]', "5", "[null]"])
def test_a_damaged_record_says_nothing(path: Path, content: str) -> None:
    path.write_text(content)
    assert read_attempts(path) == []


def test_entries_of_other_versions_are_kept_and_read_as_far_as_they_can_be(path: Path) -> None:
    note_attempt(path, 0, CPU, {}, "aa")
    (entry,) = json.loads(path.read_text())
    others = [entry | {"later": 1}, entry | {"versions": None}, {"step": 5}]
    path.write_text(json.dumps(others))
    note_attempt(path, 9, CPU, {"my_package.my_sae": "0123"}, "aa")
    assert json.loads(path.read_text())[:3] == others
    assert [attempt.step for attempt in read_attempts(path)] == [0, 9]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_gits_own_and_changes_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "attempts.py"
    module.write_text("")
    monkeypatch.setattr(attempts, "__file__", str(module))

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert find_software().commit == ""  # no checkout
    git("init")
    assert find_software().commit == ""  # somebody else's
    git("add", "attempts.py")
    git("commit", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert find_software().commit == head
    module.write_text("changed")
    assert find_software().commit == f"{head} and changes"
