"""Interactive charts of the page, as plotly figures. What comes from data is escaped: plotly reads HTML in names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import escape
from numpy.typing import NDArray

from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Design
from masked_sae.report.findings import Finding
from masked_sae.report.runs import Runs, read_curve
from masked_sae.report.series import axis_limits, dash, fronts, look, positions, spread

_POINTS = 40  # of each training curve
_CURVES = {
    "loss": "Training loss",
    "explained_variance": "Explained variance while training",
    "l0": "L0 while training",
}
_GREY = "#e4e4e4"


def front_chart(runs: Runs, design: Design, metric: Metric, link_of: Mapping[str, str]) -> go.Figure:
    """A metric against L0: runs as small points that carry a link, seed means as lines with the seeds' range."""
    figure = _figure(_l0_title(metric), _title(metric))
    all_fronts = fronts(runs, design, metric)
    for front in all_fronts:
        style = look(front.arm, len(design.arms))
        name = ", ".join(part for part in (design.arms[front.arm].label, design.strata[front.stratum]) if part)
        group = f"{front.stratum}/{front.arm}"
        figure.add_trace(
            go.Scatter(
                x=front.l0_K,
                y=front.value_K,
                error_x=_bars(front.l0_K, *front.l0_range_2K),
                error_y=_bars(front.value_K, *front.value_range_2K),
                customdata=front.count_K,
                mode="lines+markers",
                name=_text(name),
                legendgroup=group,
                line={"color": style.colour, "dash": dash(front.stratum)[1], "width": 2},
                marker={"symbol": style.symbol, "size": 9},
                hovertemplate="L0 %{x:.3g}<br>%{y:.4g}<br>mean of %{customdata} seed(s)",
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
                name=_text(name),
                legendgroup=group,
                showlegend=False,
                marker={"symbol": f"{style.symbol}-open", "size": 7, "color": style.colour, "opacity": 0.7},
                hovertemplate="%{customdata[0]}<br>L0 %{x:.3g}<br>%{y:.4g}<br>click: open its folder<extra></extra>",
            )
        )
    l0s = [front.runs["l0"].to_numpy() for front in all_fronts]
    figure.update_xaxes(type="log", **_log_ticks(np.concatenate([*l0s, np.array([])]), 2.0))
    return figure


def level_chart(design: Design, finding: Finding) -> go.Figure:
    """The metric at each sparsity against the mask rate, with 95 % intervals over seeds."""
    figure = _response_figure(design, _title(finding.metric))
    sparsities = sorted({sparsity for _, sparsity in finding.level})
    values: list[float] = []
    ends: list[float] = []
    for i, sparsity in enumerate(sparsities):
        arms = [arm for arm in range(len(design.arms)) if (arm, sparsity) in finding.level]
        levels = [finding.level[arm, sparsity] for arm in arms]
        points = [(level.mean, level.low, level.high) for level in levels]
        l0s = [finding.l0_level[arm, sparsity].mean for arm in arms]
        notes = [f"L0 {l0:.3g}, {level.count} seed(s)" for l0, level in zip(l0s, levels, strict=True)]
        _add(figure, design, (i, len(sparsities)), arms, points, notes, design.sparsities[sparsity] or "all runs")
        values += [level.mean for level in levels]
        ends += [end for level in levels for end in (level.low, level.high)]
    _limit(figure, values, ends)
    return figure


def difference_chart(design: Design, finding: Finding) -> go.Figure:
    """Masked minus unmasked at matched L0 against the mask rate, with 95 % intervals of the paired differences."""
    figure = _response_figure(design, "masked minus unmasked")
    values, ends = [0.0], [0.0]
    for i, l0 in enumerate(finding.l0_G):
        items = [item for item in finding.comparisons if np.isfinite(item.at_l0[i].estimate)]
        found = [item.at_l0[i] for item in items]
        arms = [design.arms.index(item.arm) for item in items]
        points = [(difference.estimate, difference.low, difference.high) for difference in found]
        notes = [f"{difference.seeds} seed(s)" for difference in found]
        _add(figure, design, (i, len(finding.l0_G)), arms, points, notes, f"L0 {l0:.3g}")
        values += [difference.estimate for difference in found]
        ends += [end for difference in found for end in (difference.low, difference.high)]
    figure.add_hline(y=0, line={"color": "#666", "width": 1})
    _limit(figure, values, ends)
    return figure


def curve_charts(runs: Runs, design: Design) -> list[tuple[str, go.Figure]]:
    """Training curves of all runs laid over each other, one trace for each way of masking; also of unfinished runs."""
    curves = {index: _thinned(read_curve(Path(folder))) for index, folder in runs.table["folder"].items()}
    names = [arm.label for arm in design.arms]
    other = [index for index in runs.unfinished.index if not curves[index].empty]
    members = [(name, list(design.places.index[design.places["arm"] == arm])) for arm, name in enumerate(names)]
    if other:
        members.append(("not finished", other))
    charts: list[tuple[str, go.Figure]] = []
    for column, title in _CURVES.items():
        if not any(column in curve for curve in curves.values()):
            continue
        figure = _figure("activations trained on", title)
        for place, (name, indices) in enumerate(members):
            style = look(place, len(members))
            shown = [index for index in indices if column in curves[index]]
            x, y = _joined([curves[index] for index in shown], column)
            labels = [_text(str(runs.table.at[index, "run_id"])) for index in shown]
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=y,
                    meta={"labels": labels, "lengths": [len(curves[index]) + 1 for index in shown]},  # page.js: text
                    mode="lines",
                    name=_text(name),
                    line={"color": style.colour, "width": 1, "dash": "dot" if name == "not finished" else "solid"},
                    opacity=0.6,
                    hovertemplate="%{text}<br>%{x:.3s} activations<br>%{y:.4g}<extra></extra>",
                )
            )
        if column == "loss":
            losses = [curve[column].to_numpy(dtype=np.float64) for curve in curves.values() if column in curve]
            figure.update_yaxes(type="log", **_log_ticks(np.concatenate(losses), 10.0))
        charts.append((title, figure))
    return charts


def _figure(x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=380,
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
    margin = 0.08 * float(np.ptp(x_A)) or 0.05
    figure.update_xaxes(tickvals=x_A, ticktext=texts, range=[x_A.min() - margin, x_A.max() + margin])
    return figure


def _add(
    figure: go.Figure,
    design: Design,
    place: tuple[int, int],
    arms: Sequence[int],
    points: Sequence[tuple[float, float, float]],
    notes: Sequence[str],
    name: str,
) -> None:
    if not arms:
        return
    style = look(*place)
    mean, low, high = np.array(points).T
    labels = [f"{_text(design.arms[arm].label)}, {_text(note)}" for arm, note in zip(arms, notes, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=spread(design, arms, *place),
            y=mean,
            error_y=_bars(mean, low, high),
            text=[
                label + (f"<br>95 % interval {a:.4g} to {b:.4g}" if np.isfinite(a) else "")
                for label, a, b in zip(labels, low, high, strict=True)
            ],
            mode="lines+markers",
            name=_text(name),
            line={"color": style.colour, "dash": dash(place[0])[1], "width": 2},
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


def _limit(figure: go.Figure, values: Sequence[float], ends: Sequence[float]) -> None:
    limits = axis_limits(np.array(values, dtype=np.float64), np.array(ends, dtype=np.float64))
    if limits is not None:
        figure.update_yaxes(range=limits)


def _thinned(curve: pd.DataFrame) -> pd.DataFrame:
    if len(curve) <= _POINTS:
        return curve
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, _POINTS).round().astype(int))]


def _joined(curves: Sequence[pd.DataFrame], column: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Many curves as one trace, with a gap after each: a thousand traces would be slow to draw."""
    empty, gap = np.array([], dtype=np.float32), np.array([np.nan], dtype=np.float32)
    x = [part for curve in curves for part in (curve["tokens"].to_numpy(dtype=np.float32), gap)]
    y = [part for curve in curves for part in (curve[column].to_numpy(dtype=np.float32), gap)]
    return np.concatenate([empty, *x]), np.concatenate([empty, *y])


def _log_ticks(values: NDArray[np.float64], base: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis written out: powers of two, or 1, 2 and 5 times powers of ten."""
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) == 0:
        return {}
    low, high = float(values.min()) / 1.5, float(values.max()) * 1.5
    powers = base ** np.arange(np.floor(np.log(low) / np.log(base)), np.ceil(np.log(high) / np.log(base)) + 1)
    ticks = powers if base == 2 else np.concatenate([powers, 2 * powers, 5 * powers])
    ticks = np.sort(ticks[(ticks >= low) & (ticks <= high)])
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _title(metric: Metric) -> str:
    return f"{_text(metric.label)} [{metric.unit}]" if metric.unit else _text(metric.label)


def _l0_title(metric: Metric) -> str:
    return "L0 on clean text [latents per token]" if metric.l0.startswith("core/") else "L0 [latents per token]"


def _text(text: str) -> str:
    return str(escape(text))
