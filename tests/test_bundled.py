"""What comes with the library is found from anywhere; what the working folder has comes first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

from hydra_plugins.masked_sae_conf import PROVIDER, OwnConfigurationFirst
from masked_sae.bundled import ASSETS, ASSETS_VARIABLE, CONF, command_name, find_folder
from masked_sae.errors import InputError
from masked_sae.lm_files import find_tokenizer_folder
from support.making import ROOT


def test_in_a_checkout_it_lies_beside_src() -> None:
    assert CONF == ROOT / "conf" and ASSETS == ROOT / "assets"
    assert command_name("train") == "python -m src.train"


def test_an_embedded_lm_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_folder("assets/tiny_lm") == ASSETS / "tiny_lm"
    assert find_tokenizer_folder("assets/tiny_lm") == ASSETS / "tiny_lm"
    (tmp_path / "assets" / "tiny_lm").mkdir(parents=True)
    assert find_folder("assets/tiny_lm") == Path("assets/tiny_lm")
    with pytest.raises(InputError, match=r"^lm.name=assets/tiny_lm: expected .* holds no config.json$"):
        find_tokenizer_folder("assets/tiny_lm")


@pytest.mark.parametrize("name", ["assets/of_nobody", "tiny_lm", "assets", "EleutherAI/pythia-70m", "a/assets/tiny_lm"])
def test_other_names_stay_what_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_folder(name) == Path(name)


def test_a_job_is_told_where_the_embedded_lms_are(tmp_path: Path) -> None:
    (tmp_path / "tiny_lm").mkdir()
    program = "from masked_sae.bundled import find_folder; print(find_folder('assets/tiny_lm'))"
    environment = os.environ | {ASSETS_VARIABLE: str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "tiny_lm")


def searched(main: str | None) -> list[tuple[str, str]]:
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    if main is not None:
        path.append("main", main)
    OwnConfigurationFirst().manipulate_search_path(path)
    return [(str(one.provider), str(one.path)) for one in path.get_path()]


@pytest.mark.parametrize("ours", [str(CONF), f"file://{CONF}"])
def test_conf_of_the_working_folder_comes_before_ours(
    ours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hydras = ("hydra", "pkg://hydra.conf")
    assert searched(ours) == [hydras, ("main", ours)], "there is none"
    (tmp_path / "conf").mkdir()
    assert searched(ours) == [hydras, (PROVIDER, f"file://{tmp_path / 'conf'}"), ("main", ours)]
    monkeypatch.chdir(ROOT)
    assert searched(ours) == [hydras, ("main", ours)], "it is ours"


@pytest.mark.parametrize("main", [None, "pkg://somebody.conf", "file:///their/conf"])
def test_other_programs_and_commands_without_choices_are_left_alone(
    main: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    assert PROVIDER not in dict(searched(main))
