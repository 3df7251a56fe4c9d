"""What was measured of a run: `evals/<family>.json`, and `results.json` made of them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from masked_sae.config import RunConfig
from masked_sae.evals.family import Family, Measured, words_of
from masked_sae.files import write_json
from masked_sae.runs.folder import RunFolder


def read_family(folder: RunFolder, family: str) -> dict[str, Any] | None:
    """What a family's file holds; None where there is none."""
    path = folder.family(family)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_family(
    folder: RunFolder, family: Family, settings: Mapping[str, Any], measured: Measured, seconds: float
) -> None:
    """A family's file; of a user's own it also has how each metric is called.

    Args:
        settings: that the figures depend on.
    """
    words: dict[str, Any] = {}
    if "own" in settings:
        found = {name: words_of(family.wording, name) for name in measured.metrics}
        called = {name: asdict(one[1]) for name, one in found.items() if one is not None}
        words = {"words": {"l0": family.l0, "metrics": called}}
    write_json(folder.family(family.name), {"settings": settings, "seconds": seconds, **asdict(measured), **words})


def write_results(
    folder: RunFolder, settings: Mapping[str, Any], own: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """`results.json` from the families' files.

    Args:
        settings: the run's configuration.
        own: of `describe_own`; None: what the file says already.

    Returns:
        All metrics, keyed `family/metric`.
    """
    metrics: dict[str, float] = {}
    notes: dict[str, str] = {}
    described: dict[str, Any] = dict(read_own(folder) if own is None else own)
    for path in sorted(folder.evals.glob("*.json")):
        measured = json.loads(path.read_text(encoding="utf-8"))
        metrics |= {f"{path.stem}/{key}": value for key, value in measured["metrics"].items()}
        notes |= {f"{path.stem}/{key}": value for key, value in measured["notes"].items()}
        if "words" in measured:
            described["families"] = {**described.get("families", {}), path.stem: measured["words"]}
    results: dict[str, Any] = {"run_id": folder.run_id, "status": "done", "config": settings, "metrics": metrics}
    results |= {"notes": notes} if notes else {}
    write_json(folder.results, results | ({"own": described} if described else {}))
    return metrics


def describe_own(config: RunConfig) -> dict[str, Any]:
    """What the report has to know of a user's own masks and architecture, whose modules it may not have: what of each
    mask makes a difference, which settings make the architecture sparse, what settings are called and their units.
    """
    described: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for name, mask in config.mask.items():
        if mask._module_ is not None:  # pyright: ignore[reportPrivateUsage] - a key of the configuration
            of_mask = {"effective": mask.effective(), "kept_share": mask.kept_share()}
            described["masks"] = {**described.get("masks", {}), name: of_mask}
            words |= _words(mask, f"mask.{name}.")
    if config.sae._module_ is not None:  # pyright: ignore[reportPrivateUsage]
        words |= _words(config.sae, "sae.")
    return described | ({"settings": words} if words else {})


def read_own(folder: RunFolder) -> Mapping[str, Any]:
    """What the results tell of a user's own; nothing where there are none."""
    try:
        own = json.loads(folder.results.read_text(encoding="utf-8")).get("own", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return own if isinstance(own, dict) else {}


def _words(settings: Any, prefix: str) -> dict[str, Any]:
    """Label, unit, and whether it makes SAEs sparse, of each setting that says so."""
    return {
        f"{prefix}{one.name}": {key: one.metadata[key] for key in ("label", "unit", "sparsity")}
        for one in fields(settings)
        if one.metadata.get("label") or one.metadata.get("unit") or one.metadata.get("sparsity")
    }
