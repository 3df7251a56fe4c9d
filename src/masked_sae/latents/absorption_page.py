"""`absorption.html`: where a concept's latents stay silent and another carries it, in one run or in two."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from masked_sae.errors import DamagedFileError
from masked_sae.evals.absorbed import CARRIED_SHARE, FULL_COSINE
from masked_sae.evals.absorption_decisions import MINIMUM_F1
from masked_sae.files import write_text
from masked_sae.latents.absorption_view import ShownSet
from masked_sae.latents.page import PAGE
from masked_sae.latents.pairing import ALIKE
from masked_sae.report.runs_table import flat
from masked_sae.runs.results import read_results
from masked_sae.runs.run import Run

_RANKINGS = {
    "weight": "main latents by their weight in a probe (as SAEBench)",
    "contribution": "main latents by their contribution to a probe",
}
_SHOWN_OF_SETTINGS = ("sae.architecture", "sae.d_sae", "sae.k", "sae.sparsity_coefficient", "seed")


@dataclass(frozen=True)
class ShownRun:
    """Attributes:
    name: A or B, where there are two.
    latents: where its page of latents lies, from this page; empty where there is none.
    on_record: its metrics, as they were measured.
    """

    name: str
    run_id: str
    facts: Sequence[tuple[str, str]]
    latents: str
    on_record: Mapping[str, float]


def write_absorption_page(path: Path, runs: Sequence[Run], sets: Sequence[ShownSet]) -> Path:
    write_text(path, render(path.parent, runs, sets))
    return path


def render(folder: Path, runs: Sequence[Run], sets: Sequence[ShownSet]) -> str:
    """The page as text; its links start from `folder`, where it will lie."""
    loader = PackageLoader("masked_sae.latents", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": _percent}
    shown = [_shown(run, "AB"[i] if len(runs) > 1 else "", folder) for i, run in enumerate(runs)]
    context: dict[str, Any] = {
        "runs": shown,
        "lm": runs[0].config.lm.name,
        "hook_name": runs[0].config.lm.hook_name,
        "sets": sets,
        "rankings": _RANKINGS,
        "elsewhere": {one.metric: _elsewhere(one, shown) for one in sets},
        "cosine": FULL_COSINE,
        "share": CARRIED_SHARE,
        "minimum_f1": MINIMUM_F1,
        "alike": ALIKE,
    }
    return environment.get_template("absorption.html").render(context)


def _shown(run: Run, name: str, folder: Path) -> ShownRun:
    there = run.folder.path / PAGE
    link = quote(Path(os.path.relpath(there.resolve(), folder.resolve())).as_posix()) if there.exists() else ""
    try:
        on_record = read_results(run.folder).metrics
    except (FileNotFoundError, DamagedFileError):
        on_record = {}
    return ShownRun(name, run.folder.run_id, _facts(run.settings), link, on_record)


def _facts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    by_key = dict(flat(settings))
    rates = [key for key in by_key if key.startswith("mask.") and key.endswith(".rate")]
    masks = [(key, str(by_key[key])) for key in rates if by_key[key]]
    return [*(masks or [("mask", "none")]), *((key, str(by_key[key])) for key in _SHOWN_OF_SETTINGS if key in by_key)]


def _elsewhere(shown: ShownSet, runs: Sequence[ShownRun]) -> list[tuple[str, float]]:
    """Runs whose results have another mean than this page: they were measured on other positions, or elsewhere."""
    means = zip(runs, shown.means, strict=False)
    recorded = [(run.run_id, run.on_record.get(shown.metric), mean) for run, mean in means]
    return [(run_id, had) for run_id, had, mean in recorded if had is not None and had != mean]


def _number(value: float) -> str:
    """Three digits, and a plain 0 where a latent is silent."""
    return f"{value:.3g}" if value else "0"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
