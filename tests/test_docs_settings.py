"""The page of all settings: it has every key there is, and says of each what the code does."""

import re
from pathlib import Path

import pytest

from every_setting import CONF, Setting, commented, every_setting, options
from masked_sae.config import all_settings
from masked_sae.settings import leaves
from settings_page import settings_page
from support.making import compose
from support.sides import BY_CONTENT, IN, OUT, SIDES


@pytest.fixture(scope="module")
def settings() -> dict[str, Setting]:
    return {one.key: one for one in every_setting()}


def test_every_key_is_there_with_its_meaning(settings: dict[str, Setting]) -> None:
    assert settings.keys() == all_settings().keys()
    assert [key for key, one in settings.items() if not one.meaning] == []


@pytest.mark.parametrize("overrides", [[], ["sae=jumprelu", "data=hub", "data.name=x"], ["sae=p_anneal", "eval=full"]])
def test_every_key_of_a_composed_configuration_is_there(overrides: list[str], settings: dict[str, Setting]) -> None:
    assert {key for key, _ in leaves(compose(overrides))} <= settings.keys()


def test_it_says_on_which_side_of_the_id_a_key_is(settings: dict[str, Setting]) -> None:
    said = {"yes": IN, "no": OUT, "by content": BY_CONTENT}
    for key, one in settings.items():
        assert said.get(one.side, IN) == SIDES[key], key
    assert settings["data.seed"].side == "unless null" and settings["sae.p_end"].side == "unless 1.0"


def test_defaults_are_those_of_the_command_and_of_each_choice(settings: dict[str, Setting]) -> None:
    assert settings["sae.k"].defaults == [("16", [])]
    assert settings["sae.sparsity_coefficient"].defaults[0] == ("4.0", ["sae=gated"])
    assert ("64", ["data=synthetic"]) in settings["data.context_length"].defaults
    assert settings["data.path"].defaults[-1] == ("no value", ["data=text"])


def test_what_is_valid_is_what_the_check_says(settings: dict[str, Setting]) -> None:
    assert settings["sae.k"].valid == ["1 to sae.d_sae=2048"]
    assert settings["mask.latent.rate"].valid == ["a number from 0 to 1, which itself is excluded: it would hide all"]
    assert settings["lm.dtype"].valid == ["one of float32, bfloat16"]
    assert settings["mask.token.rate"].home == "masks/token.py" and settings["optim.lr"].home == "config.py"
    numbers = [one for one in settings.values() if "number" in one.kind]
    assert [one.key for one in numbers if not one.valid] == []


def test_the_page_has_a_row_for_each_key_and_each_choice(settings: dict[str, Setting]) -> None:
    page = settings_page(list(settings.values()))
    for key in all_settings():
        assert page.count(f"| `{key}`<br>") == 1, key
    for group in ("lm", "data", "mask", "sae", "eval", "experiment"):
        for name in options(group):
            assert re.search(rf"^\| `{group}={name}` \| \w", page, flags=re.MULTILINE), name
    for name in (path.stem for path in CONF.glob("sweep/*.yaml")):
        assert f"| `+sweep={name}` |" in page
    for key in ("hydra.launcher.timeout_min", "hydra.launcher.workers", "hydra.sweeper.n_trials", "against", "dry_run"):
        assert f"| `{key}` |" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (3, 4, 6) for row in rows)


def test_comments_are_read_from_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# Of the file.\nk: 3   # how many\nof:   # settings\n  b: '#1'\n  c: [1, 2]  # two\n  d: {e: 1}\n")
    assert commented(path) == {
        "k": (3, "how many"),
        "of": (None, "settings"),
        "of.b": ("#1", ""),
        "of.c": ([1, 2], "two"),
        "of.d": ({"e": 1}, ""),
        "of.d.e": (1, ""),
    }
