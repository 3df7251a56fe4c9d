"""The page is whole, escaped, and links to what is there."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from shutil import rmtree
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from masked_sae.errors import InputError
from masked_sae.report.build import write_report
from masked_sae.report.charts import curve_charts
from masked_sae.report.design import read_design
from masked_sae.report.runs_table import read_runs
from masked_sae.runs.sweep_record import record_members
from support.made_sweeps import ATTEMPT, break_members, make_sweep
from support.making import ROOT

pytestmark = pytest.mark.slow

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
SMALL = {"seeds": (0, 1, 2), "only": ("core/explained_variance", "core/ce_recovered")}


class Page(HTMLParser):
    """What a browser would make of the page, as far as the tests ask."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.scripts: dict[str, str] = {}
        self.shown = ""
        self._inside: tuple[str, str | None] = ("", None)
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs).get("id"))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ("", None)

    def handle_data(self, data: str) -> None:
        tag, name = self._inside
        if tag == "script":
            self.scripts[name or f"script{len(self.scripts)}"] = data
        elif tag != "style":
            self.shown += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [value for name, attributes in self.tags if name == tag and (value := attributes.get(attribute))]


def report(sweep: Path) -> Page:
    return Page(write_report([sweep], figures=False))


def test_it_needs_nothing_from_elsewhere_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    make_sweep(tmp_path / "a sweep #1", **SMALL)
    page = report(tmp_path / "a sweep #1")
    assert not page.all("script", "src") and not page.all("img", "src")
    assert page.all("link", "href") == ["data:,"]
    links = [link for link in page.all("a", "href") if not link.startswith("#")]
    links += [row[0]["link"] for row in json.loads(page.scripts["run-data"])["rows"]]
    assert len(links) == 2 + 27
    for link in links:
        assert not link.startswith(("/", "file:", "http"))
        assert (tmp_path / "a sweep #1" / unquote(link)).exists()
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {link[1:] for link in page.all("a", "href") if link.startswith("#")} <= ids


def test_figures_of_absorption_link_to_the_pages_that_show_it(tmp_path: Path) -> None:
    sweep = tmp_path / "a sweep #1"
    first, second, *_ = make_sweep(
        sweep, **{**SMALL, "only": (*SMALL["only"], "absorption/token_class/full_absorption")}
    )
    first.folder.absorption().touch()
    beside = first.folder.absorption(against=second.folder.run_id)
    beside.touch()
    page = report(sweep)
    links = [link for link in page.all("a", "href") if "absorption" in link]
    assert [unquote(link) for link in links[:2]] == [
        f"./{first.folder.run_id}/{path.name}" for path in (beside, first.folder.absorption())
    ]
    assert links == links[:2] * 2  # below the fronts, and beside what masking does to it
    assert f"{first.folder.run_id} against {second.folder.run_id}" in page.shown


def test_every_chart_on_the_page_has_its_data(tmp_path: Path) -> None:
    make_sweep(tmp_path, **SMALL)
    page = report(tmp_path)
    charts = page.all("div", "data-chart")
    assert len(charts) == 2 + 2 * 2 + 6  # fronts, responses, training curves
    for chart in charts:
        assert set(json.loads(page.scripts[chart])) == {"data", "layout"}


def test_the_first_line_is_a_finding_with_its_interval(tmp_path: Path) -> None:
    make_sweep(tmp_path / "mask_rate", effect={"core/explained_variance": -0.5}, **SMALL)
    line = first_line(report(tmp_path / "mask_rate"))
    assert line.startswith("Explained variance: lower, which is worse, at mask rate 0.1 (")
    assert re.search(r"\(\N{MINUS SIGN}[\d.]+ \[.*, .*\]\) and 0\.2 \(.*; 3 seeds\.$", line)


def test_a_sweep_called_demo_calls_its_first_line_a_demonstration(tmp_path: Path) -> None:
    make_sweep(tmp_path / "demo", data_seeds=(0, 1), **SMALL)
    line = first_line(report(tmp_path / "demo"))
    said = "A demonstration, with short training; what longer training showed is in docs/results.md. "
    assert line.startswith(f"{said}Explained variance: ")
    assert re.search(r"\[.*\].*2 text orders x 3 seeds\.$", line)
    assert (ROOT / "docs" / "results.md").exists()


def test_without_any_interval_the_first_line_says_why(tmp_path: Path) -> None:
    make_sweep(tmp_path / "one", **{**SMALL, "seeds": (0,)})
    page = report(tmp_path / "one")
    assert first_line(page).startswith("Nothing can be said about masking: one seed")
    assert page.shown.count("Nothing can be said about masking") == 1


def first_line(page: Page) -> str:
    """What the page says first, below its title and what it is of."""
    below = page.shown.split("LM assets/tiny_lm", 1)[1]
    return below.strip().splitlines()[0].strip()


def curves(page: Page) -> dict[str, list[dict[str, Any]]]:
    """The traces of each chart of training curves, by its title."""
    drawn = [json.loads(page.scripts[chart]) for chart in page.all("div", "data-chart")]
    return {
        chart["layout"]["yaxis"]["title"]["text"]: chart["data"]
        for chart in drawn
        if chart["layout"]["xaxis"]["title"]["text"] == "activations trained on"
    }


def test_training_curves_say_what_text_they_were_measured_on(tmp_path: Path) -> None:
    make_sweep(tmp_path, **SMALL)
    page = report(tmp_path)
    names = ("CE loss recovered", "Explained variance", "L0", "Loss", "Explained variance", "L0")
    where = ["on held-out clean text"] * 3 + ["on training text, masked as set"] * 3
    assert list(curves(page)) == [f"{name} {text}" for name, text in zip(names, where, strict=True)]
    assert "On held-out clean text all runs are measured alike, with the thresholds as learned so far" in page.shown


def test_held_out_metrics_are_drawn_where_they_were_measured(tmp_path: Path) -> None:
    members = make_sweep(tmp_path, **SMALL)
    for member in members:
        member.folder.metrics.write_text("step,tokens,loss,val/l0\n1,64,0.5,\n")
    measured = members[-1].folder
    measured.metrics.write_text("step,tokens,loss,val/ce_recovered\n1,64,0.5,\n2,128,0.4,0.8\n4,256,0.3,0.9\n")
    drawn = curves(report(tmp_path))
    assert list(drawn) == ["CE loss recovered on held-out clean text", "Loss on training text, masked as set"]
    (trace,) = drawn["CE loss recovered on held-out clean text"]  # and no empty ones of other arms, nor their names
    assert trace["name"] == "mask rate 0.2"
    assert trace["meta"] == {"labels": [measured.run_id], "lengths": [3]}
    assert len(drawn["Loss on training text, masked as set"]) == 3


def test_a_curve_of_one_point_is_seen(tmp_path: Path) -> None:
    one, *others = make_sweep(tmp_path, **SMALL)
    header = "step,tokens,loss,val/l0\n"
    one.folder.metrics.write_text(header + "1,64,0.5,\n2,128,0.4,16\n")
    for member in others:
        member.folder.metrics.write_text(header + "1,64,0.5,17\n2,128,0.4,16\n")
    drawn = curves(report(tmp_path))
    assert [trace["mode"] for trace in drawn["L0 on held-out clean text"]] == ["lines+markers", "lines", "lines"]
    assert {trace["mode"] for trace in drawn["Loss on training text, masked as set"]} == {"lines"}


@pytest.mark.parametrize(("at_most", "kept"), [(9 * 25, 25), (10**6, 40), (1, 10)])
def test_long_curves_are_thinned_and_keep_their_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_most: int, kept: int
) -> None:
    monkeypatch.setattr("masked_sae.report.charts._POINTS", at_most)  # as more runs would
    make_sweep(tmp_path, rates=(0.0,), ks=(8,), seeds=range(9), steps=200, only=("core/explained_variance",))
    found = read_runs([tmp_path])
    charts = dict(curve_charts(found, read_design(found)))
    (trace,) = charts["Loss on training text, masked as set"].data
    assert trace.meta["lengths"] == [kept + 1] * 9
    assert trace.x[0] == 1024 and trace.x[kept - 1] == 200 * 1024 and np.isnan(trace.x[kept])
    assert (np.diff(trace.x[:kept]) > 0).all()


def test_an_arm_has_one_colour_on_fronts_and_curves(tmp_path: Path) -> None:
    break_members(make_sweep(tmp_path, **SMALL))
    page = report(tmp_path)
    front = json.loads(page.scripts[page.all("div", "data-chart")[0]])["data"]
    colour_of = {trace["name"]: trace["line"]["color"] for trace in front if "line" in trace}
    assert list(colour_of) == ["unmasked", "mask rate 0.1", "mask rate 0.2"]
    for traces in curves(page).values():
        *arms, unfinished = traces
        assert {trace["name"]: trace["line"]["color"] for trace in arms} == colour_of
        assert unfinished["name"] == "not finished" and unfinished["line"]["color"] not in colour_of.values()


def test_everything_that_comes_from_data_is_escaped(tmp_path: Path) -> None:
    sweep = tmp_path / "<b>sweep"
    members = make_sweep(sweep, settings={"lm.name": EVIL, "sae.architecture": "</script><script>alert(3)//"}, **SMALL)
    break_members(members)
    state = json.loads(members[0].folder.state.read_text())
    members[0].folder.state.write_text(json.dumps(state | {"error": EVIL}))
    evil = sweep / "<script>alert(4)<"
    members[5].folder.path.rename(evil)
    results = json.loads((evil / "results.json").read_text())
    results["metrics"]["<img src=x onerror=alert(5)>"] = 1.0
    (evil / "results.json").write_text(json.dumps(results))
    record_members(sweep, [])
    page = report(sweep)
    assert len(page.all("script", "type")) == len(page.scripts)
    assert sum(tag == "script" for tag, _ in page.tags) == len(page.all("script", "type"))  # none without a type
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in page.tags)
    assert EVIL in page.shown
    text = (sweep / "report.html").read_text()
    assert "<script>alert" not in text and "<b>sweep" not in text
    run_names = [row[0]["name"] for row in json.loads(page.scripts["run-data"])["rows"]]
    assert "<script>alert(4)<" in run_names
    hovered = json.dumps([json.loads(page.scripts[chart]) for chart in page.all("div", "data-chart")])
    assert "&lt;script&gt;alert(4)&lt;" in hovered and "<script>alert(4)" not in hovered


def test_members_without_results_are_named_with_their_reason(tmp_path: Path) -> None:
    break_members(make_sweep(tmp_path, **SMALL))
    shown = report(tmp_path).shown
    assert "3 of 27 runs have no results" in shown
    for text in ("the loss is nan (1 of 4 steps)", "its folder is gone", "stopped by SIGTERM (2 of 4 steps)"):
        assert text in shown


def test_what_the_runs_were_trained_with_is_told_of_each_kind_and_what_is_not_known(tmp_path: Path) -> None:
    members = make_sweep(tmp_path, **SMALL)
    old = ATTEMPT | {"commit": "abc123", "versions": {"torch": "2.6.0"}, "device": "<i>GPU"}
    new = old | {"versions": {"torch": "2.13.0"}}
    for member in members[:10]:
        member.folder.attempts.write_text(json.dumps([old, old, new] if member is members[0] else [old]))
    for member in members[10:]:
        member.folder.attempts.unlink()
    shown = report(tmp_path).shown
    assert "trained with, in whole or in part: one that was resumed may count more than once" in shown
    assert "10 runs on <i>GPU: commit abc123, torch 2.6.0" in shown
    assert "1 run on <i>GPU: commit abc123, torch 2.13.0" in shown
    assert "17 runs do not say" in shown


def test_what_runs_were_trained_with_is_told_in_the_order_of_their_number_and_time(tmp_path: Path) -> None:
    members = make_sweep(tmp_path, **SMALL)
    devices = [f"GPU {name}" for name in "hbgcafde"]
    attempts = [ATTEMPT | {"device": device} for device in devices]
    members[0].folder.attempts.write_text(json.dumps(attempts))
    shown = report(tmp_path).shown
    assert re.findall(r"\d+ runs? on ([\w ]+):", shown) == ["a CPU", *devices]


def test_where_nothing_has_begun_nothing_is_said_of_what_it_was_trained_with(tmp_path: Path) -> None:
    for member in make_sweep(tmp_path, **SMALL):
        rmtree(member.folder.path)
    shown = report(tmp_path).shown
    assert "What the runs were trained with" not in shown and "This report was written at" in shown


def test_a_sweep_of_which_nothing_is_done_still_gets_a_page(tmp_path: Path) -> None:
    members = make_sweep(tmp_path, **SMALL)
    for member in members:
        member.folder.results.unlink()
    page = report(tmp_path)
    assert "No run has been measured yet" in page.shown and "27 of 27 runs have no results" in page.shown


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    make_sweep(tmp_path, **SMALL)
    assert "Not measured in these runs: absorption, sparse probing, TPP, SCR, OOD gap." in report(tmp_path).shown


def test_several_sweeps_are_compared_beside_the_first(tmp_path: Path) -> None:
    make_sweep(tmp_path / "one", **SMALL)
    make_sweep(tmp_path / "two", settings={"sae.architecture": "topk"}, **SMALL)
    path = write_report([tmp_path / "one", tmp_path / "two"], figures=False)
    assert path == tmp_path / "one+two" / "report.html"
    page = Page(path)
    assert "architecture matryoshka" in page.shown and "architecture topk" in page.shown
    table = json.loads(page.scripts["run-data"])
    assert table["columns"][2] == "sweep" and len(table["rows"]) == 54
    assert all((path.parent / unquote(row[0]["link"])).is_dir() for row in table["rows"])


def test_what_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    make_sweep(tmp_path / "sweep", **SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output_dir"):
        write_report([tmp_path / "sweep"], tmp_path / "file")
    with pytest.raises(InputError, match="sweep"):
        write_report([])


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "src.report", *arguments], cwd=ROOT, text=True, capture_output=True, timeout=120
    )


def test_the_command_writes_the_report_and_prints_its_path(tmp_path: Path) -> None:
    members = make_sweep(tmp_path / "sweep", seeds=(0, 1), only=("core/explained_variance",))
    record_members(tmp_path / "sweep", members, ["+sweep=mask_rate_x_sparsity", "seed=0,1", "output_dir=elsewhere"])
    done = command(f"sweep={tmp_path / 'sweep'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "sweep" / "report.html") and not done.stderr
    names = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_file() and path.name[0] != "."}
    tables = {"results.csv", "results.parquet", "data_dictionary.csv", "findings.md"}
    assert names == {"report.html", "sweep.json", *tables}
    assert len(list((tmp_path / "sweep" / "figures").iterdir())) == 4
    shown = Page(tmp_path / "sweep" / "report.html").shown
    assert "python -m src.train +sweep=mask_rate_x_sparsity seed=0,1 -m" in shown
    assert re.search(r"masked-sae \d", shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "sweep=???: expected a value"),
        (["sweep=/no/such/folder"], "sweep=/no/such/folder: expected a sweep's folder"),
        (["sweep=[/no/such/folder,/nor/this]"], "sweep=/no/such/folder: expected a sweep's folder"),
        (["sweep=/", "figures=3"], "figures=3: expected true or false"),
        ([f"sweep={ROOT / 'docs'}"], "expected a folder that holds runs"),
        (["colour=red"], "colour: no such key"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    refused = command(*arguments)
    assert refused.returncode == 2 and not refused.stdout
    assert len(refused.stderr.splitlines()) == 1 and message in refused.stderr
