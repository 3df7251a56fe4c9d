"""Details of evaluations as W&B shows them."""

from pathlib import Path

from wandb import Histogram, Table

from masked_sae.files import write_json
from masked_sae.tracking.tables import evaluation_tables


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
