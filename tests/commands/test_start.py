"""What a command does before Hydra has it."""

import sys
from pathlib import Path

import pytest

from masked_sae.bundled import own_version
from masked_sae.commands.start import start


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hydra_as_it_was: None) -> list[list[str]]:
    """What the command found on its line; what it changes of the process is given back."""
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return []


def test_the_version_is_told_and_nothing_started(seen: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    start(lambda: seen.append(sys.argv[1:]), ["sae.k=8", "--version"])
    assert seen == [] and capsys.readouterr().out == f"masked-sae {own_version()}\n"


@pytest.mark.parametrize("option", ["--config-path", "-cp"])
def test_a_path_of_a_configuration_is_the_users(option: str, seen: list[list[str]], tmp_path: Path) -> None:
    """Hydra would look for it from the file that the command is in."""
    start(lambda: seen.append(sys.argv[1:]), [option, "runs/a", "--config-name", "config", "sae.k=8"])
    assert seen == [[option, str(tmp_path / "runs" / "a"), "--config-name", "config", "sae.k=8"]]


def test_modules_of_the_working_folder_come_last(seen: list[list[str]], tmp_path: Path) -> None:
    """Those of an installed command; `python -m` has them first, and is left as it is."""
    sys.path[:] = [place for place in sys.path if place]
    start(lambda: seen.append(list(sys.path)), [])
    assert seen[0][-1] == str(tmp_path) and seen[0].count(str(tmp_path)) == 1
    sys.path[:] = ["", *[place for place in sys.path if place != str(tmp_path)]]
    start(lambda: seen.append(list(sys.path)), [])
    assert str(tmp_path) not in seen[1]
