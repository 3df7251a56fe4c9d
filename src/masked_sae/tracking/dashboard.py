"""The workspace of a sweep: fronts, responses to the mask, settings through to metrics, and training."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from masked_sae.errors import InputError
from masked_sae.masks.run_masks import PAPER_RATE  # where no rate differs
from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Design, distinct, read_design
from masked_sae.report.runs_table import REFERENCE, Runs, read_runs
from masked_sae.report.series import look
from masked_sae.runs.curve import COLUMNS, VALIDATED, Column
from masked_sae.tracking.run_tracker import shown_as
from masked_sae.tracking.server import wandb_id

_ALWAYS = ("core/explained_variance", "core/ce_recovered")  # shown where nothing is measured yet
_NO_CHARTS = ("lr", "seconds")  # which tell nothing that the others don't
_FEWEST_LINES, _MOST_LINES = 10, 100  # W&B's default, and the most that its interface offers


def read_dashboard(
    sweeps: Sequence[Path], entity: str | None = None, project: str | None = None, own_entity: str | None = None
) -> ws.Workspace:
    """The workspace of these sweeps, not yet saved.

    Args:
        sweeps: folders of sweeps, of runs, or of one run.
        entity, project: where it belongs; None: as the runs' configurations say.
        own_entity: taken where nobody says.

    Raises:
        InputError: a sweep cannot be read, its runs do not log to W&B, or do so in several projects.
    """
    runs = of_wandb(read_runs(list(dict.fromkeys(sweeps))))
    logged = runs.table[runs.table["name"].notna()]
    if logged.empty:
        valid = "runs that log to W&B; none of these was trained here with logger.wandb.mode other than disabled"
        raise InputError("sweep", ",".join(map(str, sweeps)), valid)
    project = _the_only("project", logged, project)
    if project is None:
        raise InputError("project", "null", "the W&B project; these runs name none")
    entity = _the_only("entity", logged, entity) or own_entity or ""
    return build_workspace(runs, read_design(runs), entity, project)


def build_workspace(runs: Runs, design: Design, entity: str, project: str) -> ws.Workspace:
    """Sections for fronts, mask response, parallel coordinates and training, over the runs of the sweeps' W&B groups.

    Runs are coloured by the first mask rate that differs; the report has a colour for each way of masking. They are not
    grouped: a group is one point in W&B's scatter plots.

    Args:
        runs: see `of_wandb`.
    """
    groups = sorted({str(name) for name in runs.table["name"].dropna()})
    metrics = runs.catalogue.headlines(key for key in runs.metrics if runs.table[key].notna().any())
    metrics = metrics or [runs.catalogue.describe(key) for key in _ALWAYS]
    rates = [key for key in design.varied if key.startswith("mask.") and key.endswith(".rate")] or [PAPER_RATE]
    colours = _colours(runs, rates[0])
    in_groups = len(runs.table) + len(groups)  # each group has a W&B run of the whole sweep besides
    lines = min(max(in_groups, _FEWEST_LINES), _MOST_LINES)
    sections = [
        _section("Pareto", [_front(metric, rates[0], colours) for metric in metrics]),
        _section("Mask response", [_response(metric, rate) for rate in rates for metric in metrics]),
        _section("Parallel coordinates", [_coordinates(runs, design, rates, metrics)], columns=1, rows=1),
        _section("Training", _curves(COLUMNS, lines), rows=3),
        _section("Held out, while training", _curves(VALIDATED, lines), rows=1),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=_view_name(groups),
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="tokens", max_runs=lines),
        runset_settings=ws.RunsetSettings(
            filters=_group_filter(groups), run_settings=_run_colours(runs, groups, rates[0], colours)
        ),
        auto_generate_panels=True,  # histograms and tables: the library has no panels for them
    )


def of_wandb(runs: Runs) -> Runs:
    """The runs that W&B knows or may come to know; a `name`, which is their W&B group, have those that have begun.

    Left out are runs that do not log to W&B, and SAEs from elsewhere: they were measured here, but trained in no step.
    """
    table = runs.table if "name" in runs.table else runs.table.assign(name=None)
    modes = table.get("logger.wandb.mode", pd.Series(None, index=table.index, dtype="object"))
    has_results = table["status"].isin(["done", "not measured", REFERENCE])
    elsewhere = has_results & ((table["steps"] == 0) | table["name"].isna())
    return replace(runs, table=table[(modes != "disabled") & ~elsewhere])


def _the_only(key: str, logged: pd.DataFrame, chosen: str | None) -> str | None:
    if chosen is not None:
        return str(chosen)
    column = f"logger.wandb.{key}"
    found = distinct(logged[column]) if column in logged else ()
    if len(found) > 1:
        raise InputError(key, ", ".join(map(str, found)), f"one of them; choose with {key}=…")
    return str(found[0]) if found else None


def _front(metric: Metric, rate: str, colours: dict[float, str]) -> wr.ScatterPlot:
    return wr.ScatterPlot(
        title=metric.label,
        x=wr.SummaryMetric(metric.l0),
        y=wr.SummaryMetric(metric.key),
        z=wr.Config(rate),
        log_x=True,
        gradient=_gradient(colours),
    )


def _response(metric: Metric, rate: str) -> wr.ScatterPlot:
    """Coloured by L0, so that runs of about equal L0 can be told from those that are only of equal k."""
    return wr.ScatterPlot(
        title=metric.label,
        x=wr.Config(rate),
        y=wr.SummaryMetric(metric.key),
        z=wr.SummaryMetric(metric.l0),
        log_z=True,
    )


def _coordinates(
    runs: Runs, design: Design, rates: Sequence[str], metrics: Sequence[Metric]
) -> wr.ParallelCoordinatesPlot:
    """From the settings that differ, mask first and seed last, over L0 to the metrics."""
    others = [
        key
        for key, values in design.varied.items()
        if key not in rates and not any(str(value).startswith("[") for value in values)  # W&B has no axis for lists
    ]
    settings = sorted([*rates, *others], key=lambda key: (not key.startswith("mask."), key == "seed"))
    measured = dict.fromkeys([*(metric.l0 for metric in metrics), *(metric.key for metric in metrics)])
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), display_name=key) for key in settings]
    columns += [
        wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(key), display_name=runs.catalogue.describe(key).label)
        for key in measured
    ]
    return wr.ParallelCoordinatesPlot(title="Settings and metrics", columns=columns)


def _curves(columns: Mapping[str, Column], lines: int) -> list[wr.LinePlot]:
    return [
        wr.LinePlot(title=column.title, x="tokens", y=[shown_as(key)], title_x="tokens", max_runs_to_show=lines)
        for key, column in columns.items()
        if key not in _NO_CHARTS
    ]


def _section(name: str, panels: Sequence[Any], columns: int = 3, rows: int = 2) -> ws.Section:
    rows = min(rows, -(-len(panels) // columns))
    return ws.Section(
        name=name,
        panels=list(panels),
        is_open=True,
        layout_settings=ws.SectionLayoutSettings(columns=columns, rows=rows),
        panel_settings=ws.SectionPanelSettings(x_axis="tokens"),
    )


def _rates(runs: Runs, key: str) -> "pd.Series[float]":
    column = runs.table[key] if key in runs.settings else pd.Series(float("nan"), index=runs.table.index)
    return pd.to_numeric(column, errors="coerce")


def _colours(runs: Runs, rate: str) -> dict[float, str]:
    """A colour for each mask rate: the report's where its ways of masking are these rates."""
    found = distinct(_rates(runs, rate))
    return {float(value): look(place, len(found)).colour for place, value in enumerate(found)}


def _gradient(colours: dict[float, str]) -> list[wr.GradientPoint] | None:
    """Has W&B, which knows no colours of single values, give each rate its own."""
    if len(colours) < 2:
        return None
    lowest, highest = min(colours), max(colours)
    share = {rate: (rate - lowest) / (highest - lowest) for rate in colours}
    return [wr.GradientPoint(color=colour, offset=100 * share[rate]) for rate, colour in colours.items()]


def _run_colours(runs: Runs, groups: Sequence[str], rate: str, colours: dict[float, str]) -> dict[str, ws.RunSettings]:
    """Also for runs that have not begun, where their group can only be one."""
    coloured: dict[str, ws.RunSettings] = {}
    names = runs.table["name"]
    for (_, row), value in zip(runs.table.iterrows(), _rates(runs, rate), strict=True):
        of_sweep = distinct(names[runs.table["sweep"] == row["sweep"]])
        name = row["name"] if isinstance(row["name"], str) else of_sweep[0] if len(of_sweep) == 1 else None
        if name in groups and value in colours:
            coloured[wandb_id(str(name), str(row["run_id"]))] = ws.RunSettings(color=colours[value])
    return coloured


def _group_filter(groups: Sequence[str]) -> str:
    if len(groups) == 1:
        return f"Metric('Group') == {_literal(groups[0])}"
    return f"Metric('Group') in [{', '.join(map(_literal, groups))}]"


def _literal(text: str) -> str:
    """Every character but letters and digits escaped: the library rewrites `=` and `<` even within quotes."""
    return "'" + "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in text) + "'"


def _view_name(groups: Iterable[str]) -> str:
    """The library refuses symbols in names, `+` and `=` among them."""
    name = ", ".join(groups)
    return "".join("-" if unicodedata.category(c) in ("So", "Sk", "Sm", "Sc", "Cs") else c for c in name)
