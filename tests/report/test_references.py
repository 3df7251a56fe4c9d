"""An SAE from elsewhere is shown beside the runs and is in nothing that is said of them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masked_sae.report.build import write_report
from masked_sae.report.charts import front_chart
from masked_sae.report.design import read_design
from masked_sae.report.findings import find
from masked_sae.report.markdown import findings_table
from masked_sae.report.runs_table import read_runs
from masked_sae.report.series import fronts, log_ticks
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import RunState
from masked_sae.tracking.sweep import sweep_tables
from support.made_sweeps import make_sweep
from support.making import compose

METRICS = {"core/l0": 25.0, "core/explained_variance": 0.1, "tpp/top_20": 0.3}
RECORD: dict[str, Any] = {
    "lm": {"name": "an LM"},
    "data": {"source": "stdlib"},
    "sae": {"architecture": "standard", "d_in": 64, "d_sae": 512},
}


def write_reference(folder: RunFolder, results: dict[str, Any]) -> None:
    folder.path.mkdir(parents=True)
    state = RunState(folder.run_id, "done")
    folder.state.write_text(json.dumps(asdict(state)))
    folder.results.write_text(json.dumps({"metrics": METRICS, **results}))


def of_now() -> dict[str, Any]:
    return {"reference": {"origin": "/downloads/somebody's"}, "config": RECORD}


def of_dictionary_learning() -> dict[str, Any]:
    """Its `k` and its class are called as ours are, or nearly so."""
    sae = {"architecture": "MatryoshkaBatchTopKSAE", "d_in": 64, "d_sae": 512, "k": 32}
    origin = "somebody/saes/resid_post_layer_8/trainer_0@0123abc"
    return {"reference": {"origin": origin}, "config": RECORD | {"sae": sae}}


def of_before() -> dict[str, Any]:
    """As an earlier version left it: its command's defaults, or what the training's arguments were."""
    settings = compose(["mask=token", "mask.token.rate=0.1", "sae.k=16"])
    return {"config": asdict(settings)}


@pytest.mark.parametrize(
    "results", [of_now(), of_dictionary_learning(), of_before()], ids=["now", "dictionary_learning", "before"]
)
def test_what_is_found_of_the_runs_is_the_same_without_it(tmp_path: Path, results: dict[str, Any]) -> None:
    make_sweep(tmp_path / "sweep", effect={"core/explained_variance": -0.1}, only=("core/explained_variance",))
    without = read_runs([tmp_path / "sweep"])
    designed = read_design(without)
    write_reference(RunFolder(tmp_path / "sweep" / "somebody"), results)
    runs = read_runs([tmp_path / "sweep"])
    design = read_design(runs)
    assert list(runs.references["run_id"]) == ["somebody"] and runs.unfinished.empty
    assert (design.arms, design.strata, design.sparsities) == (designed.arms, designed.strata, designed.sparsities)
    assert (design.varied, design.fixed) == (designed.varied, designed.fixed)
    assert findings_table(find(runs, design)) == findings_table(find(without, designed))
    metric = runs.catalogue.describe("core/explained_variance")
    for front, alone in zip(fronts(runs, design, metric), fronts(without, designed, metric), strict=True):
        assert np.array_equal(front.value_K, alone.value_K) and np.array_equal(front.l0_K, alone.l0_K)
    row = runs.references.iloc[0]
    assert row[["step", "tokens", "seconds"]].isna().all()
    assert row.get("mask.token.rate") != 0.1 and row.get("data.train_tokens") != 400_000 and row["sae.k"] != 16


@pytest.mark.slow
def test_it_is_a_point_of_its_own_a_row_of_the_table_and_told_in_the_text(tmp_path: Path) -> None:
    make_sweep(tmp_path, only=("core/explained_variance",))
    write_reference(RunFolder(tmp_path / "some<b>body"), of_now())
    runs = read_runs([tmp_path])
    metric = runs.catalogue.describe("core/explained_variance")
    chart = front_chart(runs, read_design(runs), metric, dict.fromkeys(runs.table["folder"], ""))
    (trace,) = [trace for trace in chart.data if trace.name.startswith("reference: ")]
    assert (list(trace.x), list(trace.y), trace.error_x.array, trace.error_y.array) == ([25.0], [0.1], None, None)
    assert trace.marker.symbol not in {other.marker.symbol for other in chart.data if other is not trace}
    page = write_report([tmp_path]).read_text()
    assert "27 done" in page and "1 reference" in page and "have no results" not in page
    assert "Shown as a reference" in page and "/downloads/somebody" in page and "some<b>body" not in page
    assert "References, in no row above: some&lt;b>body." in (tmp_path / "findings.md").read_text()
    assert "tpp" not in (tmp_path / "findings.md").read_text()  # the runs were not measured so
    assert ",reference," in (tmp_path / "results.csv").read_text()


@pytest.mark.slow
def test_beside_arms_of_one_sparsity_it_is_a_row_of_its_own(tmp_path: Path) -> None:
    make_sweep(tmp_path, ks=(16,), only=("core/explained_variance",))
    write_reference(RunFolder(tmp_path / "somebody"), of_now())
    runs = read_runs([tmp_path])
    metric = runs.catalogue.describe("core/explained_variance")
    chart = front_chart(runs, read_design(runs), metric, dict.fromkeys(runs.table["folder"], "./there/"))
    assert [text.split("<br>")[0] for text in chart.layout.yaxis.ticktext] == [
        *("unmasked", "mask rate 0.1", "mask rate 0.2"),
        "reference: somebody",
    ]
    *arms, reference, itself = chart.data
    assert list(reference.x) == [0.1] and np.isnan(reference.error_x.array).all()
    assert itself.customdata[0][:2] == ["somebody", "./there/"]
    assert all(np.isfinite(trace.error_x.array).all() for trace in arms[::2])


def test_references_alone_make_a_page_that_says_nothing_of_masking(tmp_path: Path) -> None:
    write_reference(RunFolder(tmp_path / "evaluated" / "somebody"), of_now())
    page = write_report([tmp_path / "evaluated"]).read_text()
    assert "No run has been measured yet" in page and "Shown as a reference" in page
    assert "python -m src.train --config-path" not in page


def test_it_is_in_no_plot_or_table_of_a_sweep_in_wandb(tmp_path: Path) -> None:
    make_sweep(tmp_path, only=("core/explained_variance",))
    without = sweep_tables(tmp_path)
    write_reference(RunFolder(tmp_path / "somebody"), of_now())
    shown = sweep_tables(tmp_path)
    assert list(shown) == ["pareto/core/explained_variance", "sweep/runs"] == list(without)
    assert shown["sweep/runs"].data == without["sweep/runs"].data
    assert shown["pareto/core/explained_variance"].table.data == without["pareto/core/explained_variance"].table.data


@pytest.mark.parametrize(("low", "high"), [(16.1, 16.2), (17.0, 31.0), (0.9, 500.0), (3.0, 3.0), (16.15, 16.1501)])
def test_an_axis_has_ticks_among_its_values_however_narrow_they_lie(low: float, high: float) -> None:
    ticks = log_ticks(np.array([low, high]), 2.0)
    among = ((ticks >= low) & (ticks <= high)).sum()
    assert among >= (1 if low == high else 2)
    assert len(ticks) <= 14
