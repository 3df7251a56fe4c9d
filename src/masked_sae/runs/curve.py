"""`metrics.csv`, the training curve: its columns, rows and file; `histograms.jsonl`: what goes with some rows."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from masked_sae.errors import notice
from masked_sae.files import write_text

Parsed = TypeVar("Parsed")


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
        self.last_step = 0  # of the rows that were there
        if path.exists():
            self._columns, kept, unreadable = parse_rows(path, resumed_at)
            _tell(path, unreadable)
            self.last_step = int(kept[-1]["step"]) if kept else 0
            _rewrite(path, _text(self._columns, kept, with_header=True) if kept else "")

    def __call__(self, row: Row) -> None:
        metrics = row.metrics
        new = not self._path.exists()
        if new:
            self._columns = list(metrics)
        elif not metrics.keys() <= set(self._columns):
            self._columns = [*metrics, *(column for column in self._columns if column not in metrics)]
            write_text(self._path, _text(self._columns, parse_rows(self._path, row.step)[1], with_header=True))
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
    """The rows of a curve up to a step; none where there is no file. It is said how many lines cannot be read."""
    if not path.exists():
        return []
    _, rows, unreadable = parse_rows(path, until)
    _tell(path, unreadable)
    return rows


def read_rows(metrics: Path, histograms: Path, until: int) -> list[Row]:
    """The rows up to a step, with their histograms; none where there are no files."""
    lines = _parse_lines(histograms, until) if histograms.exists() else []
    of_step: dict[int, Mapping[str, Histogram]] = {line["step"]: line["histograms"] for line in lines}
    return [Row(row, of_step.get(int(row["step"]), {})) for row in read_metrics(metrics, until)]


def parse_rows(path: Path, until: int = sys.maxsize) -> tuple[list[str], list[Metrics], int]:
    """The columns, the rows up to a step, and how many lines cannot be read."""
    header, *lines = _whole_lines(path) or [""]
    columns = header.split(",")
    rows = _readable(lines, lambda line: _row(columns, line))
    return columns, [row for row in rows if row["step"] <= until], len(lines) - len(rows)


def _row(columns: Sequence[str], line: str) -> Metrics:
    (cells,) = csv.reader([line], strict=True)
    row = {key: _number(key, cell) for key, cell in zip(columns, cells, strict=True) if cell}
    if row["step"] < 0:
        raise ValueError("a step below 0")
    return row


def _number(column: str, cell: str) -> float:
    return int(cell) if column in ("step", "tokens") else float(cell)


def _parse_lines(path: Path, until: int) -> list[dict[str, Any]]:
    lines = _whole_lines(path)
    found = _readable(lines, _histograms)
    _tell(path, len(lines) - len(found))
    return [line for line in found if line["step"] <= until]


def _histograms(line: str) -> dict[str, Any]:
    found: Any = json.loads(line)
    if not isinstance(found["step"], int) or not isinstance(found["histograms"], dict):
        raise TypeError("no step, or no histograms")
    return found


def _readable(lines: Iterable[str], read: Callable[[str], Parsed]) -> list[Parsed]:
    """What is read of the lines, without those that cannot be."""
    found: list[Parsed] = []
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, IndexError, RecursionError, csv.Error):
            found.append(read(line))
    return found


def _tell(path: Path, unreadable: int) -> None:
    if unreadable:
        notice(f"{path} is damaged: {unreadable} of its lines cannot be read")


def _whole_lines(path: Path) -> list[str]:
    """All but a last one that a kill has cut."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line.rstrip("\r\n") for line in text.splitlines(keepends=True) if line.endswith("\n")]


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
