"""A run's configuration on disk is what was written, or refused."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from masked_sae.errors import DamagedFileError
from masked_sae.runs.config_file import is_signed, read_config, write_config

SETTINGS = {"lm": {"name": "a"}, "data": {"context_length": 128}, "seed": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_config(tmp_path / "config.yaml", SETTINGS)
    return tmp_path / "config.yaml"


def test_what_was_written_comes_back_and_is_yaml_for_others_too(path: Path) -> None:
    assert read_config(path) == SETTINGS == OmegaConf.load(path)
    assert is_signed(path)


@pytest.mark.parametrize("length", range(0, 130, 7))
def test_wherever_it_was_cut_it_is_refused(path: Path, length: int) -> None:
    """`context_length: 12` of 128 is valid YAML."""
    whole = path.read_bytes()
    assert length < len(whole)
    path.write_bytes(whole[: len(whole) - 1 - length])
    with pytest.raises(DamagedFileError, match=str(path)):
        read_config(path)


@pytest.mark.parametrize("content", ["", "[1]", "a: [", "\x00", "x" * 10, "a: &a [*a]"])
def test_what_is_no_configuration_is_refused(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(DamagedFileError):
        read_config(path)


def test_one_from_before_it_was_signed_is_taken(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert read_config(path) == SETTINGS and not is_signed(path)
