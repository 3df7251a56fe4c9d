"""Checkpoints are whole or passed over."""

from pathlib import Path

import pytest
import torch

from masked_sae.runs.checkpoint import LAST, PREVIOUS, Checkpoint, load_checkpoint, save_checkpoint


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint({"w": torch.full((3, 4), float(step)), "count": torch.tensor(step)}, {"step": step, "scale": 0.1})


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, checkpoint(1))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.meta == {"step": 1, "scale": 0.1}
    assert torch.equal(loaded.tensors["w"], checkpoint(1).tensors["w"])
    assert loaded.tensors["count"].dtype == torch.int64


def test_the_previous_one_is_kept_and_no_other(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
    (tmp_path / LAST).unlink()
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.meta["step"] == 2


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty", "no digest"])
def test_a_damaged_one_is_told_and_passed_over(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2))
    last = tmp_path / LAST
    content = bytearray(last.read_bytes())
    if damage == "cut":
        content = content[:-7]
    elif damage == "flipped bit":
        content[-3] ^= 4
    elif damage == "empty":
        content = bytearray()
    else:
        from safetensors.torch import save

        content = bytearray(save(checkpoint(2).tensors))
    last.write_bytes(content)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.meta["step"] == 1
    assert f"note: {last} is damaged" in capsys.readouterr().err


def test_what_a_kill_left_of_a_checkpoint_is_removed(tmp_path: Path) -> None:
    (tmp_path / "..next.safetensors.abc").write_bytes(b"half")
    save_checkpoint(tmp_path, checkpoint(1))
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
