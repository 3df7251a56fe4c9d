"""`metrics.csv`: the training curve."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from masked_sae.callbacks.metrics import Metrics
from masked_sae.files import write_text


class CurveFile:
    """A sink that appends rows to a CSV file; a resumed run first takes away what came after its checkpoint.

    A file that was begun with other columns gets those that are new, with empty cells in its earlier rows.

    Attributes:
        kept: the rows of earlier attempts, up to the checkpoint.
    """

    def __init__(self, path: Path, resumed_at: int) -> None:
        self._path = path
        self._columns: list[str] = []  # of the file
        self.kept: list[Metrics] = []
        if path.exists():
            header, *rows = path.read_text().splitlines() or [""]
            whole = [row for row in rows if row.count(",") == header.count(",")]  # a kill may have cut the last
            self.kept = [_read(row) for row in csv.DictReader([header, *whole]) if int(row["step"]) <= resumed_at]
            if self.kept:
                self._columns = header.split(",")
                write_text(path, _text(self._columns, self.kept, with_header=True))
            else:
                path.unlink()

    def __call__(self, metrics: Metrics) -> None:
        if not metrics.keys() <= set(self._columns):
            self._columns = [*metrics, *(column for column in self._columns if column not in metrics)]
            if self.kept:
                write_text(self._path, _text(self._columns, self.kept, with_header=True))
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            file.write(_text(self._columns, [metrics], with_header=new))
            file.flush()
            os.fsync(file.fileno())  # a checkpoint must not outlive the rows before it


def _read(row: dict[str, str]) -> Metrics:
    return {key: float(cell) if key not in ("step", "tokens") else int(cell) for key, cell in row.items() if cell}


def _text(columns: Sequence[str], rows: Iterable[Metrics], *, with_header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if with_header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
