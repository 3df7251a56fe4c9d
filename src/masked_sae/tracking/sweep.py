"""What a whole sweep has shown, as a W&B run of its own: the table of its runs, and Pareto plots."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from masked_sae.config import WandbSettings
from masked_sae.report.design import read_design
from masked_sae.report.runs_table import read_runs
from masked_sae.report.series import fronts
from masked_sae.runs.sweep_record import MEMBERS, read_members
from masked_sae.tracking.run_tracker import track_run
from masked_sae.tracking.tables import as_table

RUN_ID = "sweep"


def log_sweep(sweep: Path, settings: WandbSettings) -> None:
    """Logs `sweep_tables`, once every member of the sweep is measured; what a later call logs is shown first.

    Whatever goes wrong is a warning: the runs themselves are done.

    Args:
        sweep: its folder; one that holds runs of no sweep is left alone.
    """
    try:
        tables = sweep_tables(sweep)
        if not tables:
            return
        with FileLock(sweep / ".tables.lock"):  # two processes may see the last members end
            _log(sweep, settings, tables)
    except Exception as error:  # noqa: BLE001
        warnings.warn(f"{sweep}: its tables are not in W&B: {error}", stacklevel=2)


def _log(sweep: Path, settings: WandbSettings, tables: Mapping[str, Any]) -> None:
    group = sweep.resolve().name
    tracker = track_run(
        settings, run_id=RUN_ID, group=group, folder=sweep, config={}, resumes=False, name=f"{group}, all runs"
    )
    if tracker is not None:
        tracker.begin()
        tracker.show(tables)
        tracker.finish(failed=False)


def sweep_tables(sweep: Path) -> Mapping[str, Any]:
    """`sweep/runs`, a row for each run, and `pareto/METRIC`: each headline metric against L0, means over seeds, with a
    line for each way of masking. Empty as long as a member is not measured, and where there is no sweep. SAEs from
    elsewhere are in none of it.
    """
    from wandb.plot import line_series

    if not (sweep / MEMBERS).exists() or not all(member.folder.results.exists() for member in read_members(sweep)):
        return {}  # found out quickly: every run that ends asks
    runs = read_runs([sweep])
    if len(runs.unfinished):
        return {}
    design, metrics = read_design(runs), runs.catalogue.headlines(runs.measured_metrics)
    shown: dict[str, Any] = {}
    for metric in metrics:
        found = fronts(runs, design, metric)
        if found:
            shown[f"pareto/{metric.key}"] = line_series(
                [front.l0_K.tolist() for front in found],
                [front.value_K.tolist() for front in found],
                keys=[front.name for front in found],
                title=f"{metric.label} against L0",
                xname="L0",
                split_table=True,
            )
    axes = dict.fromkeys([metric.l0 for metric in metrics])
    columns = list(dict.fromkeys(["run_id", *design.varied, *axes, *(metric.key for metric in metrics)]))
    rows = runs.own[[column for column in columns if column in runs.own]].astype(object)
    shown["sweep/runs"] = as_table(rows.where(rows.notna(), None).to_dict("records"))
    return shown
