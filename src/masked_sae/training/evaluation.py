"""Metrics of a run's SAE, from its folder into its folder; what was measured before is not measured again."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from masked_sae.activations.lm import LM
from masked_sae.activations.stream import Layout
from masked_sae.config import EvalConfig, RunConfig
from masked_sae.evals.suite import Subject, Suite
from masked_sae.evals.texts.activations import ActivationCache
from masked_sae.files import write_json
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.identity import lm_fingerprint
from masked_sae.saes import InferenceSAE

_TEXTS = ("seed", "text_tokens", "texts_per_class", "tasks")
_SETTINGS = {  # on which the figures of a family depend
    "core": ("tokens", "dense_frequency"),
    "absorption": ("seed", "concepts", "concept_tokens", "concept_words"),
    "sparse_probing": _TEXTS,
    "tpp": _TEXTS,
    "scr": _TEXTS,
    "ood": _TEXTS,
    "ground_truth": ("seed", "tokens"),
}


def make_suite(config: RunConfig, lm: LM, held_out: Layout) -> Suite:
    """The suite for a run's LM, hook point and held-out text."""
    lm_key = f"{lm_fingerprint(config.lm.name)}/{config.lm.hook_name}/{config.lm.dtype}"
    cache = ActivationCache(Path(config.eval.cache_dir), lm_key, config.lm.batch_size, config.trainer.progress)
    return Suite(lm, held_out, cache, config.eval, config.lm.name)


def unmeasured(folder: RunFolder, settings: EvalConfig) -> list[str]:
    """The families that are asked for and not yet measured with these settings."""
    return [family for family in settings.families if not _is_measured(folder, family, settings)]


def forget(folder: RunFolder, families: Sequence[str]) -> None:
    """Has these families measured again."""
    for family in families:
        _path(folder, family).unlink(missing_ok=True)


def evaluate(folder: RunFolder, config: RunConfig, sae: InferenceSAE, suite: Suite) -> dict[str, float]:
    """Measures what is asked for and not yet measured, each family into a file; then writes `results.json`.

    Families that were measured before stay, as long as their settings are still the same.

    Returns:
        All metrics, keyed `family/metric`.
    """
    subject = Subject(sae)
    missing = unmeasured(folder, config.eval)
    for family in tqdm(missing, desc="evaluation", unit="family", leave=False, disable=not config.trainer.progress):
        start = time.monotonic()
        measured = suite.measure(family, subject)
        seconds = round(time.monotonic() - start, 2)
        settings = _settings(config.eval, family)
        write_json(_path(folder, family), {"settings": settings, "seconds": seconds, **asdict(measured)})
    return write_results(folder, config)


def write_results(folder: RunFolder, config: RunConfig) -> dict[str, float]:
    """`results.json` from the families' files."""
    metrics: dict[str, float] = {}
    notes: dict[str, str] = {}
    for path in sorted(folder.evals.glob("*.json")):
        measured = json.loads(path.read_text())
        metrics |= {f"{path.stem}/{key}": value for key, value in measured["metrics"].items()}
        notes |= {f"{path.stem}/{key}": value for key, value in measured["notes"].items()}
    results: dict[str, Any] = {"run_id": folder.run_id, "status": "done", "config": asdict(config), "metrics": metrics}
    write_json(folder.results, results | ({"notes": notes} if notes else {}))
    return metrics


def _is_measured(folder: RunFolder, family: str, settings: EvalConfig) -> bool:
    path = _path(folder, family)
    if not path.exists():
        return False
    stored: dict[str, Any] = json.loads(path.read_text())["settings"]
    return all(
        set(value) <= set(stored[key]) if key == "concepts" else value == stored[key]
        for key, value in _settings(settings, family).items()
    )


def _path(folder: RunFolder, family: str) -> Path:
    return folder.evals / f"{family}.json"


def _settings(settings: EvalConfig, family: str) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in _SETTINGS[family]}
