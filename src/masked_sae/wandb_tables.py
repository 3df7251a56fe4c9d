"""The details of an evaluation (`evals/*.json`), and what a sweep has shown, as W&B's tables, plots and histograms."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def evaluation_tables(evals: Path) -> dict[str, Any]:
    """W&B's objects, keyed `evals/family/name`; a table has a row for each concept or task."""
    shown: dict[str, Any] = {}
    for path in sorted(evals.glob("*.json")):
        details: dict[str, Any] = json.loads(path.read_text())["details"]
        for name, counted in details.pop("histograms", {}).items():
            shown[f"evals/{path.stem}/{name}"] = as_histogram(counted)
        for name, found in details.items():
            rows: list[dict[str, Any]] = found if isinstance(found, list) else _named_rows(found)
            if rows:
                shown[f"evals/{path.stem}/{name}"] = _table(rows)
    return shown


def as_histogram(counted: Mapping[str, Any]) -> Any:
    """W&B's, of `counts` and `edges`."""
    from wandb import Histogram

    return Histogram(np_histogram=(counted["counts"], counted["edges"]))


def sweep_tables(sweep: Path) -> dict[str, Any]:
    """Once all of a sweep's runs have results: `sweep/runs`, a row for each, and `pareto/METRIC`, each headline metric
    against L0 as means over seeds, with a line for each way of masking. Until then nothing: W&B would lay the plots of
    several runs over each other.
    """
    from wandb.plot import line_series

    from masked_sae.report.catalogue import headline_metrics  # these bring pandas along
    from masked_sae.report.design import read_design
    from masked_sae.report.runs import read_runs
    from masked_sae.report.series import fronts

    runs = read_runs([sweep])
    if not runs.swept or len(runs.unfinished):
        return {}
    design, metrics = read_design(runs), headline_metrics(runs.metrics)
    shown: dict[str, Any] = {}
    for metric in metrics:
        found = fronts(runs, design, metric)
        if found:
            shown[f"pareto/{metric.key}"] = line_series(
                [front.l0_K.tolist() for front in found],
                [front.value_K.tolist() for front in found],
                keys=[front.name for front in found],
                title=f"{metric.label} against L0",
                xname="L0",
                split_table=True,
            )
    axes = dict.fromkeys([metric.l0 for metric in metrics])
    columns = list(dict.fromkeys(["run_id", *design.varied, *axes, *(metric.key for metric in metrics)]))
    rows = runs.table[[column for column in columns if column in runs.table]].astype(object)
    shown["sweep/runs"] = _table(rows.where(rows.notna(), None).to_dict("records"))
    return shown


def _named_rows(found: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [{"task": name, **figures} for name, figures in found.items()]


def _table(rows: Sequence[Mapping[Any, Any]]) -> Any:
    from wandb import Table

    columns: list[Any] = list(dict.fromkeys(column for row in rows for column in row))
    cells: list[Any] = [[_cell(row.get(column)) for column in columns] for row in rows]
    return Table(columns=columns, data=cells)


def _cell(value: Any) -> Any:
    """Lists as text: a W&B table sorts and filters by numbers and words."""
    return ", ".join(f"{item:.4g}" for item in value) if isinstance(value, list) else value
