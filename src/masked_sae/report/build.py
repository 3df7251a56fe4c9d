"""A whole report: tables, figures and the page, beside the runs they are of."""

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

from masked_sae.errors import InputError
from masked_sae.files import write_text
from masked_sae.report.design import read_design
from masked_sae.report.exports import write_tables
from masked_sae.report.figures import write_figures
from masked_sae.report.findings import find
from masked_sae.report.markdown import findings_table
from masked_sae.report.page import render_page
from masked_sae.report.reproduce import reproduce
from masked_sae.report.runs_table import read_runs
from masked_sae.report.searches import read_searches, searches_text

PAGE = "report.html"


def write_report(
    sweeps: Sequence[Path],
    output_dir: Path | None = None,
    *,
    figures: bool = True,
) -> Path:
    """Writes `report.html`, `results.csv`, `results.parquet`, `data_dictionary.csv`, `findings.md` and `figures/`.

    Args:
        sweeps: folders of sweeps, of runs, or of one run.
        output_dir: where to; None: into the sweep's folder; several: into one named after them beside the first.
        figures: whether to write the figures for paper.

    Returns:
        The page.

    Raises:
        InputError: a sweep cannot be read.
    """
    if not sweeps:
        raise InputError("sweep", "[]", "a sweep's folder, or several: sweep=[runs/a,runs/b]")
    sweeps = list(dict.fromkeys(Path(sweep) for sweep in sweeps))
    runs = read_runs(sweeps)
    searches, damage = read_searches(sweeps)
    runs = replace(runs, damage=(*runs.damage, *damage))
    folder = output_dir or _beside(sweeps)
    _refuse_unwritable(folder)
    design = read_design(runs)
    findings = find(runs, design)
    title = " + ".join(sweep.resolve().name for sweep in sweeps)
    page = render_page(folder, title, runs, design, findings, reproduce(runs, sweeps), searches)
    write_tables(folder, runs)
    table = findings_table(findings, list(runs.references["run_id"]))
    write_text(folder / "findings.md", table + searches_text(searches))
    if figures:
        write_figures(folder / "figures", runs, design, findings)
    write_text(folder / PAGE, page)
    return folder / PAGE


def _beside(sweeps: Sequence[Path]) -> Path:
    first = sweeps[0]
    return first if len(sweeps) == 1 else first.parent / "+".join(sweep.resolve().name for sweep in sweeps)


def _refuse_unwritable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError("output_dir", folder, f"a folder that can be written ({error.strerror})") from error
