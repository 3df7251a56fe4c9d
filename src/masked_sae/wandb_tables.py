"""The details of an evaluation (`evals/*.json`) as W&B's tables and histograms."""

import json
from pathlib import Path
from typing import Any


def evaluation_tables(evals: Path) -> dict[str, Any]:
    """W&B's objects, keyed `evals/family/name`; a table has a row for each concept or task."""
    from wandb import Histogram

    shown: dict[str, Any] = {}
    for path in sorted(evals.glob("*.json")):
        details: dict[str, Any] = json.loads(path.read_text())["details"]
        for name, counted in details.pop("histograms", {}).items():
            shown[f"evals/{path.stem}/{name}"] = Histogram(np_histogram=(counted["counts"], counted["edges"]))
        for name, found in details.items():
            rows: list[dict[str, Any]] = found if isinstance(found, list) else _named_rows(found)
            if rows:
                shown[f"evals/{path.stem}/{name}"] = _table(rows)
    return shown


def _named_rows(found: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [{"task": name, **figures} for name, figures in found.items()]


def _table(rows: list[dict[str, Any]]) -> Any:
    from wandb import Table

    columns: list[Any] = list(dict.fromkeys(column for row in rows for column in row))
    cells: list[Any] = [[_cell(row.get(column)) for column in columns] for row in rows]
    return Table(columns=columns, data=cells)


def _cell(value: Any) -> Any:
    """Lists as text: a W&B table sorts and filters by numbers and words."""
    return ", ".join(f"{item:.4g}" for item in value) if isinstance(value, list) else value
