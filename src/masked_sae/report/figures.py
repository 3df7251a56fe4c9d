"""Figures for a paper: PNG and SVG, readable in grey and without red and green to tell apart."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import NDArray

from masked_sae.files import write_aside
from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Design
from masked_sae.report.dots import APART, Row, dot_rows, ends
from masked_sae.report.findings import Finding
from masked_sae.report.runs_table import Runs
from masked_sae.report.series import (
    REFERENCE,
    Series,
    dash,
    differences,
    fronts,
    levels,
    log_ticks,
    look,
    position_limits,
    positions,
    references,
    series_limits,
    tick_texts,
)

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.markersize": 4,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "masked-sae",  # the same data, the same file
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
}

_LONGEST = 48  # letters of a legend's line
_INSIDE = 4  # lines of a legend that the axes have room for
_LINE = 0.16  # inches of a line outside of them
_TICK = 18  # letters of a line below an arm


def write_figures(folder: Path, runs: Runs, design: Design, findings: Sequence[Finding]) -> list[Path]:
    """A front for each headline metric, and a response to masking for each of these and each stratum."""
    written: list[Path] = []
    with rc_context(_STYLE):
        for metric in {finding.metric.key: finding.metric for finding in findings}.values():
            written += _save(folder / f"front_{_slug(metric.key)}", front_figure(runs, design, metric))
        for finding in findings:
            stratum = f"_{_slug(finding.stratum)}" if finding.stratum else ""
            written += _save(
                folder / f"response_{_slug(finding.metric.key)}{stratum}", response_figure(design, finding)
            )
    return written


def front_figure(runs: Runs, design: Design, metric: Metric) -> Figure:
    """A metric against L0: one line for each way of masking, bars from the lowest to the highest seed. Where no arm has
    a second sparsity, each is a row with its L0, and bars are 95 % intervals."""
    rows = dot_rows(runs, design, metric)
    if rows:
        return _dot_figure(rows, metric)
    all_fronts, beside = fronts(runs, design, metric), references(runs, metric)
    entries = len(all_fronts) + len(beside)
    figure = Figure(figsize=(4.2, 3.1 + (_LINE * entries if entries > _INSIDE else 0)), layout="constrained")
    axes = figure.add_subplot()
    for front in all_fronts:
        style = look(front.arm, len(design.arms))
        axes.errorbar(
            front.l0_K,
            front.value_K,
            xerr=np.abs(front.l0_range_2K - front.l0_K),
            yerr=np.abs(front.value_range_2K - front.value_K),
            color=style.colour,
            marker=style.marker,
            linestyle=dash(front.stratum)[0],
            elinewidth=0.7,
            label=_brief(front.name),
        )
    for one in beside:
        style: Any = {"color": REFERENCE.colour, "marker": REFERENCE.marker, "markersize": 6}
        axes.plot([one.l0], [one.value], linestyle="none", label=_brief(f"reference: {one.name}"), **style)
    _log_l0(axes, np.concatenate([*(front.runs["l0"] for front in all_fronts), [one.l0 for one in beside]]))
    axes.set(xlabel=metric.l0_axis_label, ylabel=metric.axis_label)
    if entries > _INSIDE:
        figure.legend(loc="outside lower center")
    else:
        axes.legend()
    return figure


def _dot_figure(rows: Sequence[Row], metric: Metric) -> Figure:
    width = 3.4 + 0.06 * max(len(_brief(row.name)) for row in rows)
    figure = Figure(figsize=(width, 0.9 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        style: Any = {"color": row.look.colour, "marker": row.look.marker, "linestyle": "none"}
        axes.errorbar([row.interval.mean], [place], xerr=ends(row.interval), elinewidth=0.8, capsize=2, **style)
        below_K = np.full(len(row.runs), place + APART)
        axes.plot(row.runs["value"], below_K, markerfacecolor="none", markersize=3, alpha=0.7, **style)
    axes.set_yticks(range(len(rows)), [f"{_brief(row.name)}\nL0 {row.l0:.3g}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set(xlabel=metric.axis_label)
    return figure


def response_figure(design: Design, finding: Finding) -> Figure:
    """Left: the metric at each sparsity against the mask rate. Right: the difference to unmasked at matched L0."""
    x_A, labels = positions(design)
    figure = Figure(figsize=(7.0, 2.9 if labels is None else 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    at_sparsity, at_l0 = levels(design, finding), differences(design, finding)
    _draw(left, at_sparsity, series_limits(at_sparsity))
    left.set(ylabel=finding.metric.axis_label)
    _draw(right, at_l0, series_limits(at_l0, 0.0))
    right.axhline(0, color="0.4", linewidth=0.8)
    right.set(ylabel="masked minus unmasked")
    for axes, where in ((left, "at the sparsity set"), (right, "at matched L0")):
        axes.set_xlabel(where if labels else f"mask rate, {where}")
        if labels:
            axes.set_xticks(x_A, [fill(_brief(label), _TICK) for label in labels], rotation=30, ha="right")
        else:
            axes.set_xticks(x_A, [f"{x:g}" for x in x_A])
        axes.set_xlim(*position_limits(x_A))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


def _draw(axes: Axes, lines: Sequence[Series], limits: tuple[float, float] | None) -> None:
    for line in lines:
        style = look(line.place, line.count)
        axes.errorbar(
            line.x_K,
            line.mean_K,
            yerr=np.stack([line.mean_K - line.low_K, line.high_K - line.mean_K]),
            color=style.colour,
            marker=style.marker,
            linestyle=dash(line.place)[0],
            elinewidth=0.8,
            capsize=2,
            label=_brief(line.name),
        )
    if limits is not None:
        axes.set_ylim(*limits)


def _log_l0(axes: Axes, l0s: NDArray[np.float64]) -> None:
    axes.set_xscale("log", base=2)
    ticks = log_ticks(l0s, 2.0)
    axes.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.xaxis.set_major_formatter(FixedFormatter(tick_texts(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())


def _brief(label: str) -> str:
    """A label that leaves room for what it labels."""
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text).strip("_")[:120]


def _save(stem: Path, figure: Figure) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    png, svg = paths
    write_aside(png, lambda aside: figure.savefig(aside, format="png", dpi=300))
    write_aside(svg, lambda aside: figure.savefig(aside, format="svg", metadata={"Date": None}))
    return paths
