"""`conf/` of the working folder comes first, in commands that have choices of ours."""

from pathlib import Path

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

from masked_sae import sae_settings
from masked_sae.api.choices import _composed
from masked_sae.bundled import CONF
from masked_sae.commands.search_path import PROVIDER, OwnConfigurationFirst
from support.making import ROOT


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


def test_a_program_has_the_settings_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies where a notebook was started."""
    ours = sae_settings("ortsae")
    (tmp_path / "conf" / "sae").mkdir(parents=True)
    (tmp_path / "conf" / "sae" / "ortsae.yaml").write_text("nonsense: 1\n")
    (tmp_path / "conf" / "train.yaml").write_text("nonsense: 1\n")
    monkeypatch.chdir(tmp_path)
    _composed.cache_clear()
    assert sae_settings("ortsae") == ours
