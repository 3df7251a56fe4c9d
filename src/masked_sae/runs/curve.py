"""`metrics.csv`, the training curve: its columns, rows and file; `histograms.jsonl`: what goes with some rows."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from masked_sae.files import write_text


@dataclass(frozen=True)
class Column:
    """Attributes:
    title: as the heading of a chart.
    best: which of its values sums up a run.
    """

    title: str
    best: Literal["min", "max", "last"] = "last"


# What is measured at a step. Shares are from 0 to 1; `tokens_per_second` and `lm_time_share` are of the time in
# training since the last measured step, `seconds` is the whole run's, memory is the process's on CPU and torch's on
# CUDA: the most until now, whatever for.
COLUMNS: dict[str, Column] = {
    "loss": Column("Loss", "min"),
    "reconstruction_loss": Column("Loss: reconstruction", "min"),
    "sparsity_loss": Column("Loss: sparsity, not weighted"),
    "auxiliary_loss": Column("Loss: auxiliary"),
    "explained_variance": Column("Explained variance", "max"),
    "l0": Column("L0"),
    "dead_latents": Column("Dead latents (share)"),
    "threshold": Column("Threshold"),
    "masked_share": Column("Masked tokens (share)"),
    "lr": Column("Learning rate"),
    "tokens_per_second": Column("Tokens per second"),
    "lm_time_share": Column("The LM's share of the time"),
    "peak_memory_gib": Column("Peak memory (GiB)", "max"),
    "seconds": Column("Seconds"),
}
# What is measured on held-out text, now and then.
VALIDATED: dict[str, Column] = {
    "val/l0": Column("L0"),
    "val/explained_variance": Column("Explained variance", "max"),
    "val/ce_recovered": Column("CE loss recovered", "max"),
}

Metrics = dict[str, float]
Histogram = Mapping[str, Sequence[float]]  # `counts` of bins and their `edges`


@dataclass(frozen=True)
class Row:
    """What was measured at a step.

    Attributes:
        metrics: `step`, `tokens`, and numbers by name.
        histograms: by name; mostly there are none.
    """

    metrics: Metrics
    histograms: Mapping[str, Histogram] = field(default_factory=dict[str, Histogram])

    @property
    def step(self) -> int:
        return int(self.metrics["step"])


class CurveFile:
    """A sink that appends rows to a CSV file; a resumed run first takes away what came after its checkpoint.

    A column that is new to the file gets empty cells in its earlier rows.
    """

    def __init__(self, path: Path, resumed_at: int) -> None:
        self._path = path
        self._columns: list[str] = []  # of the file
        if path.exists():
            self._columns, kept = _parse_rows(path, resumed_at)
            _rewrite(path, _text(self._columns, kept, with_header=True) if kept else "")

    def __call__(self, row: Row) -> None:
        metrics = row.metrics
        new = not self._path.exists()
        if new:
            self._columns = list(metrics)
        elif not metrics.keys() <= set(self._columns):
            self._columns = [*metrics, *(column for column in self._columns if column not in metrics)]
            write_text(self._path, _text(self._columns, _parse_rows(self._path, row.step)[1], with_header=True))
        _append(self._path, _text(self._columns, [metrics], with_header=new))


class HistogramFile:
    """A sink that appends the histograms of a row, if it has any, as a line of JSON; it resumes as `CurveFile` does."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        self._path = path
        if path.exists():
            lines = _parse_lines(path, resumed_at)
            _rewrite(path, "".join(json.dumps(line) + "\n" for line in lines))

    def __call__(self, row: Row) -> None:
        if row.histograms:
            _append(self._path, json.dumps({"step": row.step, "histograms": row.histograms}) + "\n")


def read_metrics(path: Path, until: int = sys.maxsize, *, skip_damaged: bool = False) -> list[Metrics]:
    """The rows of a curve up to a step; none where there is no file.

    Raises:
        ValueError: a row cannot be read, unless such are to be skipped.
    """
    return _parse_rows(path, until, skip_damaged)[1] if path.exists() else []


def read_rows(metrics: Path, histograms: Path, until: int) -> list[Row]:
    """The rows up to a step, with their histograms; none where there are no files."""
    of_step: dict[int, Mapping[str, Histogram]] = {}
    if histograms.exists():
        of_step = {line["step"]: line["histograms"] for line in _parse_lines(histograms, until)}
    return [Row(row, of_step.get(int(row["step"]), {})) for row in read_metrics(metrics, until)]


def _parse_rows(path: Path, until: int, skip_damaged: bool = False) -> tuple[list[str], list[Metrics]]:
    """The columns, and the rows up to a step."""
    header, *lines = _whole_lines(path) or [""]
    rows: list[Metrics] = []
    for cells in csv.DictReader([header, *lines]):
        try:
            row = {key: _number(key, cell) for key, cell in cells.items() if cell}
        except (ValueError, TypeError, AttributeError) as error:  # of a row with too many cells the key is none
            if skip_damaged:
                continue
            raise ValueError(f"{path}: a row that cannot be read: {cells}") from error
        if row.get("step", sys.maxsize) <= until:
            rows.append(row)
    return header.split(","), rows


def _number(column: str, cell: str) -> float:
    return int(cell) if column in ("step", "tokens") else float(cell)


def _parse_lines(path: Path, until: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [json.loads(line) for line in _whole_lines(path)]
    return [line for line in lines if line["step"] <= until]


def _whole_lines(path: Path) -> list[str]:
    """All but a last one that a kill has cut."""
    return [line.rstrip("\r\n") for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _rewrite(path: Path, text: str) -> None:
    if text:
        write_text(path, text)
    else:
        path.unlink()


def _append(path: Path, text: str) -> None:
    with path.open("a", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # a checkpoint must not outlive the rows before it


def _text(columns: Sequence[str], rows: Iterable[Metrics], *, with_header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if with_header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
