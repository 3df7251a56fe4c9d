"""Every key that an error names is one that exists."""

import ast
from collections.abc import Iterator
from pathlib import Path

import yaml

from masked_sae.config import all_settings
from support.making import ROOT

CHECKS = (
    "finite",
    "one_of",
    "share",
    "share_below_1",
    "above",
    "at_least",
    "at_most",
    "within",
    "count",
    "coefficient",
)
CHECKS += ("seed", "filled", "path", "plain_text")
OF_HYDRA = {"hydra/launcher", "hydra/sweeper", "mask", "+sweep"}  # choices
OF_STATUS = {"log", "follow", "cancel"}
OF_API = {"activations", "folder", "hook_name", "keep_special", "latents"}  # arguments
OF_WANDB = {"WANDB_MODE", "WANDB_BASE_URL"}  # variables of the environment


def known_keys() -> set[str]:
    files = [ROOT / "conf" / f"{name}.yaml" for name in ("report", "dashboard", "latents", "publish")]
    of_commands = {key for path in files for key in yaml.safe_load(path.read_text())}
    how = [
        (group, path) for group in ("launcher", "sweeper") for path in (ROOT / "conf" / "hydra" / group).glob("*.yaml")
    ]
    of_commands |= {f"hydra.{group}.{key}" for group, path in how for key in yaml.safe_load(path.read_text())}
    return set(all_settings()) | of_commands | {"sae", "sweep"} | OF_HYDRA | OF_STATUS | OF_API | OF_WANDB


def named_keys() -> Iterator[tuple[str, ast.expr]]:
    """Where, and the first argument of everything that refuses a value."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and refuses(node.func):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0]


def refuses(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return isinstance(function.value, ast.Name) and function.value.id == "checks" and function.attr in CHECKS
    return isinstance(function, ast.Name) and function.id == "InputError"


def parts(key: ast.expr) -> tuple[str, str] | None:
    """How a key begins and ends; None where it is handed in."""
    if isinstance(key, ast.Constant):
        return str(key.value), str(key.value)
    if isinstance(key, ast.JoinedStr):
        first, last = key.values[0], key.values[-1]
        begins = str(first.value) if isinstance(first, ast.Constant) else ""
        return begins, str(last.value) if isinstance(last, ast.Constant) else ""
    return None


def test_every_key_that_an_error_names_exists() -> None:
    known, looked_at = known_keys(), 0
    for where, key in named_keys():
        found = parts(key)
        if found is None:
            continue
        begins, ends = found
        looked_at += 1
        if isinstance(key, ast.Constant):
            assert begins in known, where
        else:
            assert any(one.startswith(begins) and one.endswith(ends) for one in known), where
    assert looked_at > 100


def test_what_hands_keys_in_is_known() -> None:
    """A key in a variable is looked at where it comes from; these are the places."""
    handed_in = {where.split(":")[0] for where, key in named_keys() if parts(key) is None}
    assert handed_in == {
        "src/masked_sae/commands/latents.py",  # run or against
        "src/masked_sae/checks.py",  # of the checks above
        "src/masked_sae/config.py",  # of any setting
        "src/masked_sae/command_line.py",  # of a command's own keys
        "src/masked_sae/masks/replacement.py",  # mask.NAME.replacement
        "src/masked_sae/latents/opened.py",  # run or against
        "src/masked_sae/runs/recorded.py",  # of a command's own keys
        "src/masked_sae/runs/run.py",  # a corpus' origin, or lm.name
        "src/masked_sae/settings.py",  # of find's callers
        "src/masked_sae/sweeps/confirm.py",  # hydra.sweeper.confirm
        "src/masked_sae/sweeps/search_space.py",  # of what is searched
        "src/masked_sae/sweeps/steering.py",  # of status' own keys
        "src/masked_sae/sweeps/study.py",  # of what the study was begun with
        "src/masked_sae/text/store.py",  # a corpus' origin
        "src/masked_sae/text/synthetic.py",  # data.path or lm.name
        "src/masked_sae/training/memory.py",  # of what weighs most
        "src/masked_sae/tracking/dashboard.py",  # project or entity
    }


def test_the_table_of_keys_is_that_of_the_configuration() -> None:
    assert {"sae.k", "mask.token.rate", "eval.concepts", "lm.name"} <= known_keys()
    assert not {"eval.packages", "eval.datasets", "words", "quadrant"} & known_keys()
    assert Path(ROOT / "conf").is_dir()
