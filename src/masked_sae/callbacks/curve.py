"""`metrics.csv`, the training curve, and `histograms.jsonl`: what goes with some of its rows."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masked_sae.files import write_text

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

    Attributes:
        kept: the rows of earlier attempts, up to the checkpoint.
    """

    def __init__(self, path: Path, resumed_at: int) -> None:
        self._path = path
        self._columns: list[str] = []  # of the file
        self.kept: list[Metrics] = []
        if path.exists():
            self._columns, rows = _read(path)
            self.kept = [row for row in rows if row["step"] <= resumed_at]
            if self.kept:
                write_text(path, _text(self._columns, self.kept, with_header=True))
            else:
                path.unlink()

    def __call__(self, row: Row) -> None:
        metrics = row.metrics
        new = not self._path.exists()
        if new:
            self._columns = list(metrics)
        elif not metrics.keys() <= set(self._columns):
            self._columns = [*metrics, *(column for column in self._columns if column not in metrics)]
            write_text(self._path, _text(self._columns, _read(self._path)[1], with_header=True))
        _append(self._path, _text(self._columns, [metrics], with_header=new))


class HistogramFile:
    """A sink that appends the histograms of a row, if it has any, as a line of JSON; it resumes as `CurveFile` does.

    Attributes:
        kept: those of earlier attempts, by step, up to the checkpoint.
    """

    def __init__(self, path: Path, resumed_at: int) -> None:
        self._path = path
        self.kept: dict[int, Mapping[str, Histogram]] = {}
        if path.exists():
            lines: list[dict[str, Any]] = list(_whole_lines(path.read_text()))
            lines = [line for line in lines if line["step"] <= resumed_at]
            self.kept = {line["step"]: line["histograms"] for line in lines}
            if lines:
                write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
            else:
                path.unlink()

    def __call__(self, row: Row) -> None:
        if row.histograms:
            _append(self._path, json.dumps({"step": row.step, "histograms": row.histograms}) + "\n")


def kept_rows(curve: CurveFile, histograms: HistogramFile) -> list[Row]:
    """The rows of earlier attempts, whole."""
    rows = [Row(metrics) for metrics in curve.kept]
    return [Row(row.metrics, histograms.kept.get(row.step, {})) for row in rows]


def _whole_lines(text: str) -> Iterable[dict[str, Any]]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # a kill has cut it
            continue


def _append(path: Path, text: str) -> None:
    with path.open("a", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # a checkpoint must not outlive the rows before it


def _read(path: Path) -> tuple[list[str], list[Metrics]]:
    """The columns, and the rows that are whole: a kill may have cut the last."""
    header, *lines = path.read_text().splitlines() or [""]
    rows = csv.DictReader([header, *(line for line in lines if line.count(",") == header.count(","))])
    return header.split(","), [{key: _number(key, cell) for key, cell in row.items() if cell} for row in rows]


def _number(column: str, cell: str) -> float:
    return int(cell) if column in ("step", "tokens") else float(cell)


def _text(columns: Sequence[str], rows: Iterable[Metrics], *, with_header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if with_header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
