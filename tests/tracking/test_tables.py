"""Details of evaluations as W&B shows them."""

from pathlib import Path
from typing import Any

import pytest
from wandb import Histogram, Table

from masked_sae.files import write_json
from masked_sae.tracking.tables import evaluation_tables


def write_details(path: Path, details: Any) -> None:
    write_json(path, {"settings": {}, "metrics": {}, "notes": {}, "details": details})


def test_concepts_and_tasks_are_rows_and_counts_are_histograms(tmp_path: Path) -> None:
    concepts = [{"concept": "a", "f1": [0.5, 0.25], "rate": 0.1}, {"concept": "b", "f1": [1.0], "more": 2}]
    write_details(tmp_path / "absorption.json", {"token_class": concepts, "none_found": []})
    write_details(tmp_path / "tpp.json", {"tasks": {"x": {"top_1": 0.5}, "y": {"top_1": 0.25}}})
    write_details(tmp_path / "core.json", {"histograms": {"h": {"counts": [1, 2], "edges": [0, 1, 2]}}})
    write_details(tmp_path / "ground_truth.json", {})
    shown = evaluation_tables(tmp_path)
    assert list(shown) == ["evals/absorption/token_class", "evals/core/h", "evals/tpp/tasks"]
    absorption, histogram, tpp = shown.values()
    assert isinstance(absorption, Table) and isinstance(tpp, Table) and isinstance(histogram, Histogram)
    assert absorption.columns == ["concept", "f1", "rate", "more"]
    assert absorption.data == [["a", "0.5, 0.25", 0.1, None], ["b", "1", None, 2]]
    assert tpp.columns == ["task", "top_1"] and tpp.data == [["x", 0.5], ["y", 0.25]]
    assert (histogram.histogram, histogram.bins) == ([1, 2], [0, 1, 2])


@pytest.mark.parametrize(
    "details",
    [
        {"histograms": {"h": {"counts": "many"}}},
        {"tasks": 3},
        {"tasks": {"x": 1}},
        {"tasks": [1]},
        {"histograms": []},
        3,
    ],
)
def test_details_that_are_damaged_are_a_warning_and_cost_no_others(tmp_path: Path, details: Any) -> None:
    write_details(tmp_path / "absorption.json", details)
    (tmp_path / "scr.json").write_bytes(b"\x00\xff")
    write_details(tmp_path / "tpp.json", {"tasks": {"x": {"top_1": 0.5}}})
    with pytest.warns(UserWarning) as warned:
        assert list(evaluation_tables(tmp_path)) == ["evals/tpp/tasks"]
    assert [
        str(tmp_path / name) in str(one.message)
        for name, one in zip(("absorption.json", "scr.json"), warned, strict=True)
    ]
