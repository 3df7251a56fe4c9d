"""`report.html`: one page that opens from disk, with everything it needs inside."""

import math
import os
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from masked_sae.bundled import command_name
from masked_sae.report.absorption_pages import find_absorption_pages
from masked_sae.report.catalogue import Metric
from masked_sae.report.charts import curve_charts, difference_chart, front_chart, level_chart
from masked_sae.report.design import Design, show_setting
from masked_sae.report.dots import dot_rows
from masked_sae.report.exports import data_dictionary
from masked_sae.report.findings import Finding, comparisons_made, text_orders_are_shared
from masked_sae.report.opening import open_page
from masked_sae.report.power import TARGET
from masked_sae.report.reproduce import Reproduction
from masked_sae.report.runs_table import Runs
from masked_sae.report.searches import Search
from masked_sae.report.sentences import (
    CLUSTERED,
    POWERFUL,
    answer,
    sentence,
    show_difference,
    show_needed,
    show_p,
    show_seeds,
    show_smallest,
)
from masked_sae.report.series import fronts, references
from masked_sae.report.statistics import OUTSIDE, Difference
from masked_sae.runs.sweep_record import heading

_FIRST, _LAST = "core/l0", "core/dead_latents"  # in the table of runs, beside the headline metrics
_VALUES_SHOWN = 12  # of a setting that differs
_RUNS_NAMED = 6  # in one line


def render_page(
    folder: Path,
    title: str,
    runs: Runs,
    design: Design,
    findings: Sequence[Finding],
    reproduction: Reproduction,
    searches: Sequence[Search] = (),
) -> str:
    """The page as text; its links to runs start from `folder`, where it will lie."""
    link_of = {place: _link(folder, place) for place in runs.table["folder"]}
    charts = _Charts()
    metrics = runs.catalogue.headlines(runs.metrics)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    here = files("masked_sae.report")
    tables = files("itables") / "html"
    module = (tables / "dt_bundle.js").read_bytes()
    context: dict[str, Any] = {
        "title": title,
        "style": Markup((here / "page.css").read_text(encoding="utf-8")),
        "table_style": Markup((tables / "dt_bundle.css").read_text(encoding="utf-8")),
        "plotly": Markup(get_plotlyjs()),
        "script": Markup((here / "page.js").read_text(encoding="utf-8")),
        "table_module": b64encode(module).decode(),
        "opening": open_page(title, findings),
        "strata": [_stratum(design, label, findings, charts) for label in design.strata or ("",)],
        "comparisons": comparisons_made(findings),
        "powerful": POWERFUL,
        "target": TARGET,
        "clustered": CLUSTERED if text_orders_are_shared(findings) else "",
        "not_measured": runs.catalogue.not_measured(runs.measured_metrics),
        "runs": len(runs.own),
        "references": [
            {"name": row["run_id"], "reason": row["reason"], "link": link_of[row["folder"]]}
            for _, row in runs.references.iterrows()
        ],
        "notes": [(note, _runs_named(having, len(runs.table))) for note, having in runs.notes.items()],
        "damage": damage(runs),
        "counts": _counts(runs),
        "varied": [(key, _values(values), len(values)) for key, values in design.varied.items()],
        "fixed": [(key, show_setting(value)) for key, value in design.fixed.items()],
        "fronts": [
            (_front_title(runs, design, metric), charts.add(front_chart(runs, design, metric, link_of)))
            for metric in metrics
            if fronts(runs, design, metric) or references(runs, metric)
        ],
        "absorption_pages": find_absorption_pages(link_of),
        "dots": bool(metrics) and all(dot_rows(runs, design, metric) for metric in metrics),
        "curves": [(name, charts.add(figure)) for name, figure in curve_charts(runs, design)],
        "table": _table(runs, design, link_of),
        "unfinished": [
            {"run": row["run_id"], "status": row["status"], "reason": row["reason"], "link": link_of[row["folder"]]}
            for _, row in runs.unfinished.iterrows()
        ],
        "reproduction": reproduction,
        "searches": searches,
        "report_command": command_name("report"),
        "dictionary": data_dictionary(runs).to_dict("records"),
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    return environment.from_string((here / "template.html").read_text(encoding="utf-8")).render(
        context | {"charts": charts.texts}
    )


class _Charts:
    """Charts by name, as JSON that may stand inside a script element."""

    def __init__(self) -> None:
        self.texts: dict[str, Markup] = {}

    def add(self, figure: go.Figure) -> str:
        name = f"chart{len(self.texts)}"
        text = figure.to_json()
        assert text is not None
        self.texts[name] = Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))
        return name


def _stratum(design: Design, label: str, findings: Sequence[Finding], charts: _Charts) -> dict[str, Any]:
    """What the template needs of one stratum."""
    own = [finding for finding in findings if finding.stratum == label]
    return {
        "label": label,
        "answer": answer(own),
        "findings": [
            {
                "name": finding.metric.label,
                "titled": _named(finding.metric),
                "absorption": finding.metric.key.startswith("absorption/"),
                "said": sentence(finding).removeprefix(f"{finding.metric.label}: "),
                "verdict": finding.verdict,
                "l0": _matched(finding),
                "level": charts.add(level_chart(design, finding)),
                "difference": charts.add(difference_chart(design, finding)) if len(finding.l0_G) else None,
                "columns": [f"{l0:.3g}" for l0 in finding.l0_G],
                "rows": [
                    {
                        "arm": item.arm.label,
                        "average": _cell(item.average),
                        "range": _range(item.average.l0_low, item.average.l0_high),
                        "unmasked": _number(item.average.unmasked),
                        "p": show_p(item.average.p_adjusted) or "—",
                        "smallest": show_smallest(item) or "—",
                        "needed": show_needed(item.power) or "—",
                        "reason": item.average.reason,
                        "cells": [_cell(at) for at in item.at_l0],
                    }
                    for item in finding.comparisons
                ],
            }
            for finding in own
        ],
    }


def damage(runs: Runs) -> list[str]:
    """What files could not be read, of the runs' curves too."""
    return [*runs.damage, *(curve.damage for curve in runs.curves.values() if curve.damage)]


def _runs_named(having: Sequence[str], of: int) -> str:
    """`in all runs`, or which."""
    if len(having) == of:
        return "in all runs" if of > 1 else ""
    return ", ".join(having) if len(having) <= _RUNS_NAMED else f"{len(having)} of {of} runs"


def _named(metric: Metric) -> str:
    return f"{metric.label} ({metric.better} is better)" if metric.better else metric.label


def _front_title(runs: Runs, design: Design, metric: Metric) -> str:
    return f"{_named(metric)} {'at one sparsity' if dot_rows(runs, design, metric) else 'against L0'}"


def _cell(difference: Difference) -> list[str]:
    """The estimate, and below it interval and number of seeds."""
    if math.isnan(difference.estimate):
        return ["outside" if difference.reason == OUTSIDE else "—"]
    estimate, _, interval = show_difference(difference).partition(" ")
    return [part for part in (estimate, interval, show_seeds(difference)) if part]


def _matched(finding: Finding) -> str:
    if finding.metric.l0.startswith("core/"):
        return "L0 on held-out clean text (core/l0)"
    return f"L0 on what the metric was measured on ({finding.metric.l0})"


def _counts(runs: Runs) -> list[tuple[int, str]]:
    return [(int(count), str(status)) for status, count in runs.table["status"].value_counts().items()]


def _values(values: Sequence[Any]) -> str:
    shown = ", ".join(show_setting(value) for value in values[:_VALUES_SHOWN])
    return shown if len(values) <= _VALUES_SHOWN else f"{shown}, … {show_setting(values[-1])}"


def _table(runs: Runs, design: Design, link_of: dict[str, str]) -> dict[str, Any]:
    """Columns and rows of the table of all runs; the page escapes what it shows of them."""
    headings = [heading(key, runs.labels) for key in design.varied]
    several = len(set(runs.table["sweep"])) > 1
    shown = [_FIRST, *(metric.key for metric in runs.catalogue.headlines(runs.metrics)), _LAST]
    metrics = [runs.catalogue.describe(key) for key in shown if key in runs.metrics]
    keys = [*design.varied, *(metric.key for metric in metrics), "tokens_per_second"]
    names = [name if headings.count(name) == 1 else key for key, name in zip(design.varied, headings, strict=True)]
    names = [*names, *(metric.label for metric in metrics), "tokens/s"]
    rows = [
        [
            {"name": row["run_id"], "link": "" if row["status"] == "missing" else link_of[row["folder"]]},
            row["status"],
            *([row["sweep"]] if several else []),
            *(_plain(row[key]) for key in keys),
        ]
        for row in runs.table.to_dict("records")
    ]
    return {"columns": ["run", "state", *(["sweep"] if several else []), *names], "rows": rows}


def _plain(value: Any) -> Any:
    """A value as JSON has it: five digits of a number are enough to sort and read."""
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return value if isinstance(value, int) else float(f"{value:.5g}")


def _link(page_folder: Path, run_folder: str) -> str:
    relative = os.path.relpath(Path(run_folder).resolve(), page_folder.resolve())
    return "./" + quote(Path(relative).as_posix()) + "/"


def _range(low: float, high: float) -> str:
    return "—" if math.isnan(low) else f"{low:.3g} to {high:.3g}"


def _number(value: float) -> str:
    return "—" if math.isnan(value) else f"{value:.3f}"
