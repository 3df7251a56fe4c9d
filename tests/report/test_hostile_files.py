"""Whatever lies in a run's folder: the report is written, names the file, and goes on with the other runs."""

import html
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from masked_sae.report.build import write_report
from masked_sae.report.runs_table import read_runs
from support.made_sweeps import make_sweep

pytestmark = pytest.mark.slow

SMALL = {"rates": (0.0, 0.1), "ks": (8, 16), "seeds": (0, 1), "only": ("core/explained_variance",)}
DEEP = b"[" * 200_000 + b"]" * 200_000
NOT_JSON = {
    "cut": b'{"metrics": {"core/l0": 1',
    "empty": b"",
    "list": b"[]",
    "number": b"3",
    "binary": b"\x00\xff\xfe\x80",
    "deep": DEEP,
    "digits": b'{"metrics": {"core/l0": ' + b"9" * 10_000 + b"}}",
}
METRICS = ["1e308", "1" + "0" * 400, "NaN", "-Infinity", '"1.0"', "{}", "[1]", "true", "1e400"]


def written(sweep: Path, *, figures: bool = False) -> str:
    """The page, made without a word on stderr."""
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        return html.unescape(write_report([sweep], figures=figures).read_text())


@pytest.mark.parametrize("name", ["results.json", "state.json", "evals/core.json", "attempts.json", "sweep.json"])
@pytest.mark.parametrize("kind", NOT_JSON)
def test_a_file_that_is_none_is_named_and_costs_no_other_run(tmp_path: Path, name: str, kind: str) -> None:
    members = make_sweep(tmp_path, **SMALL)
    path = tmp_path / name if name == "sweep.json" else members[3].folder.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(NOT_JSON[kind])
    runs = read_runs([tmp_path])
    assert len(runs.measured) == (7 if name == "results.json" else 8)
    damage = [one for one in runs.damage if one.startswith(f"{path} is damaged (")]
    assert len(damage) == (0 if name == "attempts.json" else 1)
    if kind in ("cut", "deep"):
        page = written(tmp_path)
        assert all(one in page for one in damage)


SEARCH = {"objectives": ["core/l0"], "searched": {"sae.k": "4,8"}, "trials": {"complete": 2}, "best": []}
SEARCH |= {"confirm": ["python"], "confirmed_in": "search_confirmed"}
NO_SEARCHES = {key: json.dumps({**SEARCH, key: 3}).encode() for key in SEARCH}
NO_SEARCHES["elsewhere"] = json.dumps({**SEARCH, "confirmed_in": "../../etc"}).encode()
NO_SEARCHES["no number"] = json.dumps({**SEARCH, "trials": {"complete": "2"}}).encode()


@pytest.mark.parametrize("kind", [*NOT_JSON, *NO_SEARCHES])
def test_a_record_of_a_search_that_is_none_is_named_and_the_page_is_written(tmp_path: Path, kind: str) -> None:
    make_sweep(tmp_path, **SMALL)
    (tmp_path / "search.json").write_text(json.dumps(SEARCH))
    assert "is a search for core/l0 over sae.k 4,8: 2 done" in written(tmp_path)
    (tmp_path / "search.json").write_bytes((NOT_JSON | NO_SEARCHES)[kind])
    page = written(tmp_path)
    assert f"{tmp_path / 'search.json'} is damaged (" in page and "is a search for" not in page


@pytest.mark.parametrize("value", METRICS)
def test_a_metric_that_is_no_number_that_can_be_measured_is_damage(tmp_path: Path, value: str) -> None:
    folder = make_sweep(tmp_path, **SMALL)[0].folder
    text = json.dumps(json.loads(folder.results.read_text()) | {"metrics": {"core/l0": "HERE"}})
    folder.results.write_text(text.replace('"HERE"', value))
    page = written(tmp_path)
    ((_, row),) = read_runs([tmp_path]).unfinished.iterrows()
    assert row["status"] == "damaged" and str(folder.results) in row["reason"] and str(folder.results) in page


def test_what_was_not_measured_is_no_damage(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, **SMALL)[0].folder
    results = json.loads(folder.results.read_text())
    results["metrics"]["core/ce_recovered"] = None
    folder.results.write_text(json.dumps(results))
    runs = read_runs([tmp_path])
    assert len(runs.measured) == 8 and not runs.damage


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 10**400), ("seed", 10**25), ("name", "\ud800"), ("mask", 3), ("sae", []), ("data", {"a": [{"b": 1}]})],
)
def test_settings_of_any_kind_cost_no_other_run(tmp_path: Path, key: str, value: object) -> None:
    folder = make_sweep(tmp_path, **SMALL)[0].folder
    results = json.loads(folder.results.read_text())
    results["config"][key] = value
    folder.results.write_text(json.dumps(results))
    assert "7 done" in written(tmp_path) or "8 done" in written(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00\xff",
        b"step,tokens,loss\n1,1e400,0.5\n",
        b"step,tokens,loss\n1," + b"9" * 400 + b",0.5\n2,20,0.5\n",
        b"step,tokens,loss\n1,10,1e308\n2,20,nan\n3,30,-inf\n4,40,0.5\n",
        b"step,tokens,loss\n1,10," + b"5" * 200_000 + b"\n",
        b"a,b\n1,2\n",
    ],
)
def test_a_curve_that_is_none_is_named_and_the_run_is_shown(tmp_path: Path, text: bytes) -> None:
    folder = make_sweep(tmp_path, **SMALL)[0].folder
    folder.metrics.write_bytes(text)
    page = written(tmp_path)
    assert "8 done" in page
    assert f"{folder.metrics} is damaged (" in page


@pytest.mark.parametrize(
    "record",
    ['{"members": 3}', '{"members": {"a": 3}}', '{"members": {"a": {"sae.k": [1]}}}', '{"members": {}, "commands": 3}',
     '{"members": {}, "commands": [[1]]}', '{"members": {}, "labels": []}'],
)  # fmt: skip
def test_a_sweeps_record_of_another_form_leaves_the_runs(tmp_path: Path, record: str) -> None:
    make_sweep(tmp_path, **SMALL)
    (tmp_path / "sweep.json").write_text(record)
    assert "8 done" in written(tmp_path)


@pytest.mark.parametrize(
    "change", [{"step": "many"}, {"tokens": 10**400}, {"error": 3}, {"seconds": None}, {"steps": []}]
)
def test_a_state_of_another_form_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    folder = make_sweep(tmp_path, **SMALL)[0].folder
    folder.state.write_text(json.dumps(json.loads(folder.state.read_text()) | change))
    page = written(tmp_path)
    assert "8 done" in page and f"{folder.state} is damaged (" in page


@pytest.mark.parametrize("name", ["[/a/path]", "[red]bold[/red]", "<i>x</i>", "a|b`c`*d*", "$x^2$", "_under"])
def test_names_that_look_like_markup_are_text(tmp_path: Path, name: str) -> None:
    sweep = tmp_path / name.replace("/", ":")
    make_sweep(sweep, settings={"lm.name": name}, **SMALL)
    page = written(sweep, figures=name == "$x^2$")
    assert "8 done" in page
    assert json.loads(json.dumps(name)) in (sweep / "results.csv").read_text()
    assert "<i>x</i>" not in (sweep / "report.html").read_text()
