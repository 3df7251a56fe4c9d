"""Every setting that composes, with hostile values: a checked configuration or one line, and never anything else."""

import itertools
from collections.abc import Sequence

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from masked_sae.command_line import explain
from masked_sae.config import all_settings, check, typed_config
from masked_sae.evals.texts.task_settings import check_tasks
from support.making import ROOT

HOSTILE = (
    0, -1, 1, 2, 1e30, -1e30, 5e-324, 10**20, 10**400, float("inf"), float("-inf"), float("nan"), 0.5, 1.5,
    "", " ", "~", "~nobody-here/x", "..", "/", "a/b", "x" * 300, "é" * 200, "a\0b", "a\nb", "\ud800", "\u202e",
    "inf", "nan", "1_0", "0x10", "true", "on", "null", "1" * 5000, "${nowhere}", "${oc.env:NOWHERE}", "${", "???",
    "[red]", "[/a/path]", "a=b", "%d", "*", True, False, None, [], [1], [None], ["a", "a\0b"], [[[]]], {}, {"a": 1},
    {"_target_": "os.system"}, [{"a": [1, {"b": "\0"}]}],
)  # fmt: skip
CHOICES = ([], ["sae=topk"], ["sae=jumprelu"], ["sae=relu"], ["data=text", "data.path=a"], ["data=hub", "data.name=a"])


@pytest.fixture(scope="module")
def composed() -> list[DictConfig]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return [hydra.compose("train", list(overrides)) for overrides in CHOICES]


def taken(config: DictConfig, values: dict[str, object]) -> str | None:
    """None where the configuration is taken, else the line that says why not."""
    try:
        config = OmegaConf.create(OmegaConf.to_container(config, resolve=False))  # type: ignore[assignment]
        for key, value in values.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
        typed = typed_config(config)
        check(typed)
        check_tasks(typed.eval.tasks)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to be explained
        line = explain(error)
        assert line is not None, f"{values}: {error!r}"
        assert len(line.splitlines()) == 1 and line.isprintable(), line
        return line
    return None


ABSENT = ("lm.revision", "eval.tasks", "eval.own", "sae._module_", "mask.token._module_")  # but may be set


def keys_of(config: DictConfig) -> list[str]:
    """What can be set of these choices."""
    present = [key for key in all_settings() if OmegaConf.select(config, key, default="absent") != "absent"]
    return [*present, *ABSENT]


def own_keys(composed: Sequence[DictConfig]) -> list[tuple[int, str]]:
    """Every key that can be set, and the first choice that has it."""
    places: dict[str, int] = {}
    for choice, config in enumerate(composed):
        for key in keys_of(config):
            places.setdefault(key, choice)
    return [(choice, key) for key, choice in places.items()]


@pytest.mark.slow
def test_each_setting_takes_hostile_values_or_refuses_them_in_a_line(composed: list[DictConfig]) -> None:
    """A few for each, others for the next: between them all values have their turn."""
    values = itertools.cycle(HOSTILE)
    for choice, key in own_keys(composed):
        for value in itertools.islice(values, 4):
            taken(composed[choice], {key: value})


@pytest.mark.long
@pytest.mark.timeout(600)
def test_each_setting_takes_more_hostile_values_or_refuses_them_in_a_line(composed: list[DictConfig]) -> None:
    values = itertools.cycle(reversed(HOSTILE))
    for choice, key in own_keys(composed):
        for value in itertools.islice(values, 15):
            taken(composed[choice], {key: value})


VALUES = st.one_of(
    st.sampled_from(HOSTILE), st.integers(), st.floats(), st.text(max_size=30), st.booleans(), st.none(),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=5)), max_size=3),
)  # fmt: skip
KEYS = st.sampled_from([*all_settings(), "mask", "sae", "optim", "trainer", "eval", "lm", "data", "mask.mine.rate"])


@pytest.mark.long
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), choice=st.integers(0, len(CHOICES) - 1))
def test_any_settings_together_are_taken_or_refused_in_a_line(
    composed: list[DictConfig], values: dict[str, object], choice: int
) -> None:
    taken(composed[choice], values)
