"""What a model card says of a run: its SAE, text and masks, in the words of those whose settings they are."""

import importlib
from collections.abc import Mapping
from typing import Any

from masked_sae.config import all_settings
from masked_sae.masks import run_masks as masks
from masked_sae.publishing.trained_run import TrainedRun
from masked_sae.saes import settings as saes
from masked_sae.settings import names

_TEXTS = {
    "stdlib": "the source and documentation of Python's standard library",
    "text": "the maker's own files",
    "synthetic": "synthetic text, whose features are known",
}


def describe_architecture(run: TrainedRun) -> str:
    """The first sentence of the architecture's own description; of a user's own its name."""
    name = str(run.setting("sae.architecture"))
    return _opening(saes.PACKAGE, name, "Settings") if run.setting("sae._module_") is None else f"{name} (its maker's)"


def describe_text(run: TrainedRun) -> str:
    source = run.setting("data.source")
    if source == "hub":
        return f"{run.setting('data.name')} ({run.setting('data.split')})"
    found = _TEXTS.get(str(source), str(source))
    files = run.setting("data.path")
    return f"{found}: {', '.join(map(str, files))}" if source == "text" and files else found


def describe_masks(run: TrainedRun) -> dict[str, str]:
    """What hid anything while it trained, by mask: what it is, and the settings that make a difference."""
    configured: Any = run.setting("mask")
    named: Mapping[str, Any] = configured if isinstance(configured, Mapping) else {}
    own: Mapping[str, Any] = run.results.own.get("masks", {})
    found: dict[str, str] = {}
    for name, values in named.items():
        effective = own[name]["effective"] if name in own else masks.effective_of_recorded(name, values)
        if effective:
            settings = "; ".join(describe_setting(run, f"mask.{name}.{key}", value) for key, value in effective.items())
            is_ours = name in names(masks.PACKAGE, "Settings") and name not in own
            found[name] = (
                f"{_opening(masks.PACKAGE, name, 'Settings')} Here: {settings}." if is_ours else f"{settings}."
            )
    return found


def describe_setting(run: TrainedRun, key: str, value: Any) -> str:
    """`mask rate 0.3 (share of tokens)`."""
    words: Mapping[str, Any] = run.results.own.get("settings", {}).get(key) or all_settings().get(key, {})
    label = words.get("label") or key.rpartition(".")[2].replace("_", " ")
    unit = f" ({words['unit']})" if words.get("unit") else ""
    return f"{label} {value}{unit}"


def _opening(package: str, name: str, attribute: str) -> str:
    """The first sentence of a module's docstring: what it is."""
    if name not in names(package, attribute):
        return name
    text = " ".join((importlib.import_module(f"{package}.{name}").__doc__ or name).split("\n\n")[0].split())
    return text if text.endswith(".") else f"{text}."
