"""`results.csv`, `results.parquet` and what their columns mean."""

from pathlib import Path

import pandas as pd

from masked_sae.files import write_aside
from masked_sae.report.runs_table import Runs

_ABOUT = {
    "sweep": ("", "the sweep's folder"),
    "run_id": ("", "the run's name: its folder and its W&B id come from it"),
    "status": (
        "",
        "done; reference, of an SAE from elsewhere, which no mean counts; or why there are no metrics: "
        "failed, preempted, cancelled, pruned, running, created, not measured, missing, damaged",
    ),
    "reason": ("", "for runs that are not done; where a reference is from"),
    "folder": ("", "where the run lies, as seen when the report was written"),
    "step": ("steps", "optimizer steps done"),
    "steps": ("steps", "optimizer steps in all"),
    "tokens": ("activations", "trained on"),
    "seconds": ("s", "spent in training"),
    "tokens_per_second": ("1/s", "activations trained on per second, in the latest stretch"),
    "created": ("UTC", "when the run's folder was made"),
    "updated": ("UTC", "when its state last changed"),
}
_EXACT = 2**53  # whole numbers below this are the same as floats


def data_dictionary(runs: Runs) -> pd.DataFrame:
    """One row for each column of the table: `column`, `kind`, `unit`, `better`, `meaning`."""
    rows = [(name, "run", *_ABOUT[name][:1], "", _ABOUT[name][1]) for name in _ABOUT]
    units = {key: str(runs.words.get(key, {}).get("unit", "")) for key in runs.settings}
    rows += [(key, "setting", unit, "", "configuration key") for key, unit in units.items()]
    for key in runs.metrics:
        metric = runs.catalogue.describe(key)
        meaning = f"{metric.label}: {metric.meaning}" if metric.meaning else "not in this version's catalogue"
        rows.append((key, "metric", metric.unit, metric.better, meaning))
    return pd.DataFrame(rows, columns=["column", "kind", "unit", "better", "meaning"])


def write_tables(folder: Path, runs: Runs) -> list[Path]:
    """Writes the table twice and its dictionary."""
    table, dictionary = _one_type_each(runs.table), data_dictionary(runs)
    csv, parquet, words = (folder / name for name in ("results.csv", "results.parquet", "data_dictionary.csv"))
    write_aside(csv, lambda aside: table.to_csv(aside, index=False))
    write_aside(parquet, lambda aside: table.to_parquet(aside, index=False, engine="pyarrow"))
    write_aside(words, lambda aside: dictionary.to_csv(aside, index=False))
    return [csv, parquet, words]


def _one_type_each(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers, of truth values or of text: parquet takes no mixture."""
    table = table.copy()
    for name in table.columns:
        column = table[name]
        whole = column.dtype == "float64" and column.hasnans and "/" not in name
        if whole and (column.dropna() % 1 == 0).all() and (column.dropna().abs() < _EXACT).all():
            table[name] = column.astype("Int64")  # whole numbers that became floats for the gaps between them
        elif column.dtype == object:
            kinds = {type(value) for value in column.dropna()}
            if kinds <= {int, float}:
                table[name] = column.astype("float64")
            elif kinds == {bool}:
                table[name] = column.astype("boolean")
            else:
                table[name] = column.map(str, na_action="ignore").astype("string")
    return table
