"""Details of evaluations as W&B shows them."""

import json
from pathlib import Path

import pandas as pd
import pytest
from made_sweeps import break_members, make_sweep
from wandb import Histogram, Table

from masked_sae.files import write_json
from masked_sae.wandb_tables import evaluation_tables, sweep_tables


def test_concepts_and_tasks_are_rows_and_counts_are_histograms(tmp_path: Path) -> None:
    concepts = [{"concept": "a", "f1": [0.5, 0.25], "rate": 0.1}, {"concept": "b", "f1": [1.0], "more": 2}]
    write_json(tmp_path / "absorption.json", {"details": {"token_class": concepts, "none_found": []}})
    write_json(tmp_path / "tpp.json", {"details": {"tasks": {"x": {"top_1": 0.5}, "y": {"top_1": 0.25}}}})
    write_json(tmp_path / "core.json", {"details": {"histograms": {"h": {"counts": [1, 2], "edges": [0, 1, 2]}}}})
    write_json(tmp_path / "ground_truth.json", {"details": {}})
    shown = evaluation_tables(tmp_path)
    assert list(shown) == ["evals/absorption/token_class", "evals/core/h", "evals/tpp/tasks"]
    absorption, histogram, tpp = shown.values()
    assert isinstance(absorption, Table) and isinstance(tpp, Table) and isinstance(histogram, Histogram)
    assert absorption.columns == ["concept", "f1", "rate", "more"]
    assert absorption.data == [["a", "0.5, 0.25", 0.1, None], ["b", "1", None, 2]]
    assert tpp.columns == ["task", "top_1"] and tpp.data == [["x", 0.5], ["y", 0.25]]
    assert (histogram.histogram, histogram.bins) == ([1, 2], [0, 1, 2])


def test_a_whole_sweep_is_a_table_and_a_line_for_each_mask_rate_against_l0(tmp_path: Path) -> None:
    measured = ["core/explained_variance", "tpp/top_20"]
    members = make_sweep(tmp_path, only=measured)
    shown = sweep_tables(tmp_path)
    assert list(shown) == ["pareto/core/explained_variance", "pareto/tpp/top_20", "sweep/runs"]
    table = shown["sweep/runs"]
    assert table.columns == ["run_id", "seed", "mask.token.rate", "sae.k", "core/l0", *measured]
    rows = pd.DataFrame(table.data, columns=table.columns)
    assert sorted(rows["run_id"]) == sorted(member.folder.run_id for member in members)
    results = json.loads(members[4].folder.results.read_text())["metrics"]
    (row,) = [row for row in table.data if row[0] == members[4].folder.run_id]
    assert row[-2:] == [results[key] for key in measured]
    line = shown["pareto/core/explained_variance"].table
    drawn = pd.DataFrame(line.data, columns=line.columns)
    means = rows.groupby(["mask.token.rate", "sae.k"])[["core/l0", "core/explained_variance"]].mean()
    assert len(drawn) == len(means) == 9
    assert sorted(drawn["step"]) == pytest.approx(sorted(means["core/l0"]))
    assert set(drawn["lineKey"]) == {"unmasked", "mask rate 0.1", "mask rate 0.2"}


def test_of_a_sweep_that_is_not_whole_nothing_is_drawn(tmp_path: Path) -> None:
    break_members(make_sweep(tmp_path))
    assert sweep_tables(tmp_path) == {}


def test_runs_that_no_sweep_holds_together_are_not_drawn(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    (tmp_path / "sweep.json").unlink()
    assert sweep_tables(tmp_path) == {}
