"""A sweep as a table."""

from pathlib import Path

import pandas as pd

from masked_sae.report.design import distinct
from masked_sae.report.runs_table import ABOUT_COLUMNS, read_runs


def read_sweep(folder: str | Path, *, all_settings: bool = False) -> pd.DataFrame:
    """One row for each run, also those that failed or have not begun.

    Args:
        folder: of a sweep, or of one run.
        all_settings: also those that are the same in all runs.

    Returns:
        First what and how a run is (`run_id`, `status`, `folder`, …), then settings by their key (`sae.k`), then
        metrics (`core/l0`): floats, NaN where a run has none.

    Raises:
        InputError: it holds no runs.
    """
    runs = read_runs([Path(folder).expanduser()])
    settings = [key for key in runs.settings if all_settings or len(distinct(runs.table[key])) > 1]
    return runs.table[[*ABOUT_COLUMNS, *settings, *runs.metrics]].copy()
