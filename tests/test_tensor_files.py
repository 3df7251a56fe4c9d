"""Tensors on disk come back to the bit, or are told to be damaged."""

from pathlib import Path

import pytest
import torch

from masked_sae.errors import DamagedFileError
from masked_sae.tensor_files import bytes_of, load_tensors, save_tensors

TENSORS = {
    "wide": torch.randn(3, 1 << 20),  # more than a piece of the digest
    "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    "half": torch.randn(2, 3).to(torch.bfloat16),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "none": torch.empty(0, 4),
    "turned": torch.arange(6).reshape(2, 3).T,
}


def test_they_come_back_in_memory_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.safetensors"
    save_tensors(path, TENSORS, {"step": 3, "text": "☕"})
    tensors, meta = load_tensors(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert meta == {"step": 3, "text": "☕"} and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and tensors[name].shape == tensor.shape
        assert bytes_of(tensors[name]) == bytes_of(tensor.contiguous())


@pytest.mark.parametrize("at", [0.05, 0.4, 0.7, 0.99])
def test_a_flipped_bit_is_told_wherever_it_is(at: float, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"wide": TENSORS["wide"]}, {})
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="does not match its digest"):
        load_tensors(path)


def test_what_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "a.safetensors")
