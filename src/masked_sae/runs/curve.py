"""`metrics.csv`, the training curve, and `histograms.jsonl`: what goes with some of its rows."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from masked_sae.files import write_text
from masked_sae.runs.row import Histogram, Metrics, Row


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


def read_metrics(path: Path, until: int = sys.maxsize) -> list[Metrics]:
    """The rows of a curve up to a step; none where there is no file."""
    return _parse_rows(path, until)[1] if path.exists() else []


def read_rows(metrics: Path, histograms: Path, until: int) -> list[Row]:
    """The rows up to a step, with their histograms; none where there are no files."""
    of_step: dict[int, Mapping[str, Histogram]] = {}
    if histograms.exists():
        of_step = {line["step"]: line["histograms"] for line in _parse_lines(histograms, until)}
    return [Row(row, of_step.get(int(row["step"]), {})) for row in read_metrics(metrics, until)]


def _parse_rows(path: Path, until: int) -> tuple[list[str], list[Metrics]]:
    """The columns, and the rows up to a step."""
    header, *lines = _whole_lines(path) or [""]
    rows = [row for row in csv.DictReader([header, *lines]) if int(row["step"]) <= until]
    return header.split(","), [{key: _number(key, cell) for key, cell in row.items() if cell} for row in rows]


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
