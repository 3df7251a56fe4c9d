"""What comes with the library is found from anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
