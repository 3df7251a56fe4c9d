"""The details of an evaluation (`evals/*.json`) as W&B's tables and histograms."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masked_sae.errors import DamagedFileError, first_line
from masked_sae.runs.results import read_family_file


def evaluation_tables(evals: Path) -> dict[str, Any]:
    """W&B's objects, keyed `evals/family/name`; a table has a row for each concept or task. What cannot be
    read of it is a warning: the rest is shown.
    """
    shown: dict[str, Any] = {}
    for path in sorted(evals.glob("*.json")):
        try:
            shown |= _tables(path)
        except DamagedFileError as error:
            warnings.warn(str(error), stacklevel=2)
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            warnings.warn(f"{path} is damaged (its details: {first_line(error)})", stacklevel=2)
    return shown


def _tables(path: Path) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    details: dict[str, Any] = dict(read_family_file(path)["details"])
    for name, counted in details.pop("histograms", {}).items():
        shown[f"evals/{path.stem}/{name}"] = as_histogram(counted)
    for name, found in details.items():
        rows: list[dict[str, Any]] = found if isinstance(found, list) else _named_rows(found)
        if rows:
            shown[f"evals/{path.stem}/{name}"] = as_table(rows)
    return shown


def as_histogram(counted: Mapping[str, Any]) -> Any:
    """W&B's, of `counts` and `edges`."""
    from wandb import Histogram

    return Histogram(np_histogram=(counted["counts"], counted["edges"]))


def as_table(rows: Sequence[Mapping[Any, Any]]) -> Any:
    """W&B's, with a column for each key; a cell that a row lacks is empty."""
    from wandb import Table

    columns: list[Any] = list(dict.fromkeys(column for row in rows for column in row))
    cells: list[Any] = [[_cell(row.get(column)) for column in columns] for row in rows]
    return Table(columns=columns, data=cells, allow_mixed_types=True)


def _named_rows(found: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [{"task": name, **figures} for name, figures in found.items()]


def _cell(value: Any) -> Any:
    """Lists as text: a W&B table sorts and filters by numbers and words."""
    if not isinstance(value, list):
        return value
    return ", ".join(f"{item:.4g}" if isinstance(item, (int, float)) else str(item) for item in value)
