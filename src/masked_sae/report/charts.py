"""Interactive charts of the page, as plotly figures. What comes from data is escaped: plotly reads HTML in names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import escape
from numpy.typing import NDArray

from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Design
from masked_sae.report.dots import APART, Row, dot_rows
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

_FEWEST_POINTS, _MOST_POINTS = 10, 40  # of a training curve
_POINTS = 25_000  # of all curves of a chart, so that the page of many runs opens quickly
_CURVES = {
    "val/ce_recovered": "CE loss recovered on held-out clean text",
    "val/explained_variance": "Explained variance on held-out clean text",
    "val/l0": "L0 on held-out clean text",
    "loss": "Loss on training text, masked as set",
    "explained_variance": "Explained variance on training text, masked as set",
    "l0": "L0 on training text, masked as set",
}
_UNFINISHED = "#777777"  # no arm's colour
_GREY = "#e4e4e4"
_HEIGHT = 380  # pixels, with a legend of a few lines
_FEW, _LINE = 3, 30  # lines, pixels of one more


def front_chart(runs: Runs, design: Design, metric: Metric, link_of: Mapping[str, str]) -> go.Figure:
    """A metric against L0: runs as small points that carry a link, means as lines with the seeds' range. Where no arm
    has a second sparsity, each is a row with its L0, and bars are 95 % intervals."""
    rows = dot_rows(runs, design, metric)
    if rows:
        return _dot_chart(rows, metric, link_of)
    all_fronts = fronts(runs, design, metric)
    figure = _figure(metric.l0_axis_label, _text(metric.axis_label))
    for front in all_fronts:
        style = look(front.arm, len(design.arms))
        group = f"{front.stratum}/{front.arm}"
        figure.add_trace(
            go.Scatter(
                x=front.l0_K,
                y=front.value_K,
                error_x=_bars(front.l0_K, *front.l0_range_2K),
                error_y=_bars(front.value_K, *front.value_range_2K),
                customdata=front.counts,
                mode="lines+markers",
                name=_text(front.name),
                legendgroup=group,
                line={"color": style.colour, "dash": dash(front.stratum)[1], "width": 2},
                marker={"symbol": style.symbol, "size": 9},
                hovertemplate="L0 %{x:.3g}<br>%{y:.4g}<br>mean of %{customdata}",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=front.runs["l0"],
                y=front.runs["value"],
                customdata=[
                    [_text(run), link_of[folder]]
                    for run, folder in zip(front.runs["run_id"], front.runs["folder"], strict=True)
                ],
                mode="markers",
                name=_text(front.name),
                legendgroup=group,
                showlegend=False,
                marker={"symbol": f"{style.symbol}-open", "size": 7, "color": style.colour, "opacity": 0.7},
                hovertemplate="%{customdata[0]}<br>L0 %{x:.3g}<br>%{y:.4g}<br>click: open its folder<extra></extra>",
            )
        )
    beside = references(runs, metric)
    for one in beside:
        figure.add_trace(
            go.Scatter(
                x=[one.l0],
                y=[one.value],
                customdata=[[_text(one.name), link_of[one.folder]]],
                mode="markers",
                name=_text(f"reference: {one.name}"),
                marker={"symbol": REFERENCE.symbol, "size": 12, "color": REFERENCE.colour},
                hovertemplate="%{customdata[0]}<br>L0 %{x:.3g}<br>%{y:.4g}<br>reference, of no arm<extra></extra>",
            )
        )
    entries = len(all_fronts) + len(beside)
    figure.update_layout(height=_HEIGHT + _LINE * max(0, entries - _FEW))
    l0s = [front.runs["l0"].to_numpy() for front in all_fronts]
    figure.update_xaxes(type="log", **_log_ticks(np.concatenate([*l0s, np.array([one.l0 for one in beside])]), 2.0))
    return figure


def _dot_chart(rows: Sequence[Row], metric: Metric, link_of: Mapping[str, str]) -> go.Figure:
    figure = _figure(_text(metric.axis_label), "")
    for place, row in enumerate(rows):
        mean, group = row.interval.mean, f"row {place}"
        below_K = np.full(len(row.runs), place + APART)
        figure.add_trace(
            go.Scatter(
                x=[mean],
                y=[place],
                error_x=_bars(np.array([mean]), *(np.array([end]) for end in (row.interval.low, row.interval.high))),
                mode="markers",
                name=_text(row.name),
                legendgroup=group,
                marker={"symbol": row.look.symbol, "size": 10, "color": row.look.colour},
                hovertemplate=f"L0 {row.l0:.3g}<br>%{{x:.4g}}<br>{_text(row.count)}",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=row.runs["value"],
                y=below_K,
                customdata=[
                    [_text(run), link_of[folder], float(f"{l0:.3g}")]
                    for run, folder, l0 in zip(row.runs["run_id"], row.runs["folder"], row.runs["l0"], strict=True)
                ],
                mode="markers",
                name=_text(row.name),
                legendgroup=group,
                showlegend=False,
                marker={"symbol": f"{row.look.symbol}-open", "size": 7, "color": row.look.colour, "opacity": 0.7},
                hovertemplate="%{customdata[0]}<br>L0 %{customdata[2]}<br>%{x:.4g}<extra></extra>",
            )
        )
    names = [f"{_text(row.name)}<br>L0 {row.l0:.3g}" for row in rows]
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.4, -0.6], automargin=True)
    figure.update_layout(showlegend=False)
    return figure


def level_chart(design: Design, finding: Finding) -> go.Figure:
    """The metric at each sparsity against the mask rate, with 95 % intervals over seeds."""
    figure = _response_figure(design, _text(finding.metric.axis_label))
    lines = levels(design, finding)
    for line in lines:
        notes = [f"L0 {l0:.3g}, {count}" for l0, count in zip(line.l0_K, line.counts, strict=True)]
        _add(figure, design, line, notes)
    return _limited(figure, series_limits(lines))


def difference_chart(design: Design, finding: Finding) -> go.Figure:
    """Masked minus unmasked at matched L0 against the mask rate, with 95 % intervals of the paired differences."""
    figure = _response_figure(design, "masked minus unmasked")
    lines = differences(design, finding)
    for line in lines:
        _add(figure, design, line, line.counts)
    figure.add_hline(y=0, line={"color": "#666", "width": 1})
    return _limited(figure, series_limits(lines, 0.0))


def curve_charts(runs: Runs, design: Design) -> list[tuple[str, go.Figure]]:
    """What was measured while training, of all runs laid over each other: a trace for each arm that has it, coloured as
    on its fronts, and one for unfinished runs.
    """
    whole = {index: curve.rows for index, curve in runs.curves.items()}
    points = min(max(_POINTS // len(whole), _FEWEST_POINTS), _MOST_POINTS)
    members = [
        (arm.label, design.places.index[design.places["arm"] == place], look(place, len(design.arms)).colour, "solid")
        for place, arm in enumerate(design.arms)
    ]
    members.append(("not finished", runs.unfinished.index, _UNFINISHED, "dot"))
    charts: list[tuple[str, go.Figure]] = []
    for column, title in _CURVES.items():
        thinned = {index: _thinned(curve, column, points) for index, curve in whole.items() if column in curve}
        curves = {index: curve for index, curve in thinned.items() if len(curve)}
        if not curves:
            continue
        figure = _figure("activations trained on", title)
        for name, indices, colour, dashed in members:
            shown = [(str(runs.table.at[index, "run_id"]), curves[index]) for index in indices if index in curves]
            if shown:
                figure.add_trace(_curve_trace(name, shown, column, colour, dashed))
        if column == "loss":
            losses = [curve[column].to_numpy(dtype=np.float64) for curve in curves.values()]
            figure.update_yaxes(type="log", **_log_ticks(np.concatenate(losses), 10.0))
        charts.append((title, figure))
    return charts


def _curve_trace(
    name: str, curves: Sequence[tuple[str, pd.DataFrame]], column: str, colour: str, dashed: str
) -> go.Scatter:
    """One column of the curves of these runs."""
    x, y = _joined([curve for _, curve in curves], column)
    lengths = [len(curve) + 1 for _, curve in curves]
    alone = min(lengths) == 2  # a point that no line leads to
    return go.Scatter(
        x=x,
        y=y,
        meta={"labels": [_text(run) for run, _ in curves], "lengths": lengths},  # page.js makes the text of it
        mode="lines+markers" if alone else "lines",
        name=_text(name),
        line={"color": colour, "width": 1, "dash": dashed},
        marker={"size": 4},
        opacity=0.6,
        hovertemplate="%{text}<br>%{x:.3s} activations<br>%{y:.4g}<extra></extra>",
    )


def _figure(x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=_HEIGHT,
        margin={"l": 64, "r": 32, "t": 34, "b": 48},
        modebar={"orientation": "v"},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        hovermode="closest",
    )
    figure.update_xaxes(title={"text": x_title, "font": {"size": 13}}, gridcolor=_GREY, zeroline=False)
    figure.update_yaxes(title={"text": y_title, "font": {"size": 13}}, gridcolor=_GREY, zeroline=False)
    return figure


def _response_figure(design: Design, y_title: str) -> go.Figure:
    x_A, labels = positions(design)
    figure = _figure("mask rate" if labels is None else "", y_title)
    texts = [f"{x:g}" for x in x_A] if labels is None else [_text(label) for label in labels]
    figure.update_xaxes(tickvals=x_A, ticktext=texts, range=position_limits(x_A))
    return figure


def _add(figure: go.Figure, design: Design, line: Series, notes: Sequence[str]) -> None:
    style = look(line.place, line.count)
    labels = [f"{_text(design.arms[arm].label)}, {_text(note)}" for arm, note in zip(line.arms, notes, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=line.x_K,
            y=line.mean_K,
            error_y=_bars(line.mean_K, line.low_K, line.high_K),
            text=[
                label + (f"<br>95 % interval {low:.4g} to {high:.4g}" if np.isfinite(low) else "")
                for label, low, high in zip(labels, line.low_K, line.high_K, strict=True)
            ],
            mode="lines+markers",
            name=_text(line.name),
            line={"color": style.colour, "dash": dash(line.place)[1], "width": 2},
            marker={"symbol": style.symbol, "size": 8},
            hovertemplate="%{text}<br>%{y:.4g}",
        )
    )


def _bars(mean: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": high - mean,
        "arrayminus": mean - low,
        "thickness": 1,
        "width": 3,
    }


def _limited(figure: go.Figure, limits: tuple[float, float] | None) -> go.Figure:
    if limits is not None:
        figure.update_yaxes(range=limits)
    return figure


def _thinned(curve: pd.DataFrame, column: str, points: int) -> pd.DataFrame:
    """The rows where it was measured, or so many of them, first and last among them."""
    curve = curve[["tokens", column]].dropna()
    if len(curve) <= points:
        return curve
    return curve.iloc[np.linspace(0, len(curve) - 1, points).round().astype(int)]


def _joined(curves: Sequence[pd.DataFrame], column: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Many curves as one trace, with a gap after each: a thousand traces would be slow to draw."""
    empty, gap = np.array([], dtype=np.float32), np.array([np.nan], dtype=np.float32)
    x = [part for curve in curves for part in (curve["tokens"].to_numpy(dtype=np.float32), gap)]
    y = [part for curve in curves for part in (curve[column].to_numpy(dtype=np.float32), gap)]
    return np.concatenate([empty, *x]), np.concatenate([empty, *y])


def _log_ticks(values: NDArray[np.float64], base: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis, written out."""
    ticks = log_ticks(values, base)
    return {"tickvals": ticks, "ticktext": tick_texts(ticks)} if len(ticks) else {}


def _text(text: str) -> str:
    return str(escape(text))
