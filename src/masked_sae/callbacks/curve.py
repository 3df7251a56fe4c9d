"""`metrics.csv`: the training curve."""

import csv
import os
from pathlib import Path

from masked_sae.callbacks.metrics import Metrics
from masked_sae.files import write_text


class CurveFile:
    """A sink that appends rows to a CSV file; a resumed run first takes away what came after its checkpoint.

    Attributes:
        reached: the last step that an earlier attempt wrote, taken away or not.
    """

    def __init__(self, path: Path, resumed_at: int) -> None:
        self._path = path
        self.reached = 0
        if path.exists():
            header, *rows = path.read_text().splitlines() or [""]
            whole = [row for row in rows if row.count(",") == header.count(",")]  # a kill may have cut the last
            self.reached = max((_step_of(row) for row in whole), default=0)
            kept = [row for row in whole if _step_of(row) <= resumed_at]
            if kept:
                write_text(path, "\n".join([header, *kept]) + "\n")
            else:
                path.unlink()

    def __call__(self, metrics: Metrics) -> None:
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, metrics)
            if new:
                writer.writeheader()
            writer.writerow(metrics)
            file.flush()
            os.fsync(file.fileno())  # a checkpoint must not outlive the rows before it


def _step_of(row: str) -> int:
    return int(row.split(",")[0])
