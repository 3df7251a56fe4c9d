"""The tables hold every run with all that is known of it, and say what their columns mean."""

import json
from pathlib import Path

import pandas as pd

from masked_sae.report.exports import write_tables
from masked_sae.report.runs_table import read_runs
from support.made_sweeps import break_members, make_sweep

SMALL = {"rates": (0.0, 0.1), "ks": (8, 16), "seeds": (0, 1)}


def test_csv_and_parquet_hold_the_same_row_for_every_run(tmp_path: Path) -> None:
    members = make_sweep(tmp_path / "sweep", **SMALL)
    break_members(members)
    write_tables(tmp_path, read_runs([tmp_path / "sweep"]))
    csv, parquet = pd.read_csv(tmp_path / "results.csv"), pd.read_parquet(tmp_path / "results.parquet")
    assert len(csv) == len(parquet) == 8 and list(csv.columns) == list(parquet.columns)
    for name in ("core/l0", "mask.token.rate", "sae.k", "seed"):
        pd.testing.assert_series_equal(csv[name], parquet[name], check_dtype=False)
    results = json.loads(members[-1].folder.results.read_text())
    row = parquet.set_index("run_id").loc[members[-1].folder.run_id]
    assert {key: row[key] for key in results["metrics"]} == results["metrics"]
    assert str(parquet["sae.k"].dtype).lower() == "int64"
    assert json.loads(row["sae.group_fractions"])[-1] == 0.53125


def test_every_column_is_in_the_dictionary_and_every_metric_has_a_unit(tmp_path: Path) -> None:
    make_sweep(tmp_path / "sweep", **SMALL)
    write_tables(tmp_path, read_runs([tmp_path / "sweep"]))
    words = pd.read_csv(tmp_path / "data_dictionary.csv", keep_default_na=False).set_index("column")
    assert list(words.index) == list(pd.read_csv(tmp_path / "results.csv").columns)
    metrics = words[words["kind"] == "metric"]
    assert len(metrics) == 19 and (metrics["unit"] != "").all() and (metrics["meaning"] != "").all()


def test_settings_of_mixed_kinds_are_written_as_text(tmp_path: Path) -> None:
    members = make_sweep(tmp_path / "sweep", **SMALL)
    for member, value in zip(members, [None, 3, "auto", True], strict=False):
        results = json.loads(member.folder.results.read_text())
        results["config"]["trainer"]["threads"] = value
        member.folder.results.write_text(json.dumps(results))
    write_tables(tmp_path, read_runs([tmp_path / "sweep"]))
    column = pd.read_parquet(tmp_path / "results.parquet")["trainer.threads"]
    assert sorted(column.dropna()) == ["3", "True", "auto"]
