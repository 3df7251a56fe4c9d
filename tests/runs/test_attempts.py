"""What runs are trained with, on record."""

import subprocess
from pathlib import Path

import pytest
import torch

from masked_sae.runs.attempts import find_commit, note_attempt, read_attempts


def test_attempts_are_kept_in_order(tmp_path: Path) -> None:
    path = tmp_path / "attempts.json"
    assert read_attempts(path) == []
    note_attempt(path, 0, torch.device("cpu"))
    note_attempt(path, 7, torch.device("cpu"))
    first, second = read_attempts(path)
    assert (first.step, second.step) == (0, 7)
    assert first.versions["torch"] == torch.__version__ and first.versions["masked-sae"]
    assert first.began <= second.began and first.device and first.threads == torch.get_num_threads()


@pytest.mark.parametrize("content", ["", "[{}]", "{}", '[{"step": 1}]', "5"])
def test_a_damaged_record_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "attempts.json").write_text(content)
    assert read_attempts(tmp_path / "attempts.json") == []


def test_the_commit_is_gits_own() -> None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert find_commit().partition(" ")[0] == (said.stdout.strip() if said.returncode == 0 else "")
