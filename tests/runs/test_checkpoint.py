"""Checkpoints are whole or passed over."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


@pytest.mark.parametrize(("now", "then"), [('"step": 2', '"step": 1'), ('"scale": 0.1', '"scale": 0.2')])
def test_a_changed_header_is_damage(tmp_path: Path, now: str, then: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path, checkpoint(2))
    last = tmp_path / LAST
    escaped = [text.replace('"', '\\"').encode() for text in (now, then)]
    assert escaped[0] in last.read_bytes()
    last.write_bytes(last.read_bytes().replace(*escaped))
    assert load_checkpoint(tmp_path) is None
    assert "does not match its digest" in capsys.readouterr().err


def test_one_from_before_its_header_was_in_the_digest_is_taken_and_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = checkpoint(3).tensors
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    header = {"meta": json.dumps(checkpoint(3).meta), "digest": digest.hexdigest()}
    save_file(tensors, tmp_path / LAST, metadata=header)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.meta["step"] == 3
    assert "from before" in capsys.readouterr().err


def test_a_whole_one_that_a_kill_left_beside_its_place_is_put_there(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step))
    (tmp_path / LAST).rename(tmp_path / ".next.safetensors")
    (tmp_path / PREVIOUS).rename(tmp_path / LAST)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.meta["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]


def test_one_in_use_is_no_map_of_its_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    with (tmp_path / LAST).open("r+b") as file:
        file.write(bytes((tmp_path / LAST).stat().st_size))
    assert torch.equal(loaded.tensors["w"], checkpoint(1).tensors["w"])
