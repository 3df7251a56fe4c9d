"""W&B's sweep definitions: what an agent makes of them is a command that the configuration accepts."""

from pathlib import Path
from typing import Any

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from masked_sae.config import check
from support.making import ROOT, compose

DEFINITIONS = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))


def arguments(definition: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """The command as W&B's agent makes it."""
    made = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    command: list[str] = []
    for word in create_sweep_command(definition["command"]):
        found = made.get(word.removeprefix("${").removesuffix("}")) if word.startswith("${") else None
        command += [word] if found is None else found
    return command


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
@pytest.mark.parametrize("end", ["min", "max"])
def test_an_agents_command_composes_at_both_ends_of_every_range(path: Path, end: str) -> None:
    definition: dict[str, Any] = load_sweep_config(str(path))
    values = {key: settings[end] for key, settings in definition["parameters"].items()}
    command = arguments(definition, values)
    start = command.index("src.train")
    assert command[start - 2 : start] == ["python", "-m"]
    config = compose(command[start + 1 :])
    check(config)
    for key, value in values.items():
        found: Any = config
        for part in key.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        assert found == value and type(found) is type(value)


def test_there_is_a_definition() -> None:
    assert DEFINITIONS


def test_every_other_sweep_is_a_choice_of_hydras() -> None:
    assert (ROOT / "conf" / "sweep").resolve() == (ROOT / "sweeps").resolve()
