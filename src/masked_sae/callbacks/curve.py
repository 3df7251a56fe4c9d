"""`metrics.csv`: the training curve."""

import csv
from pathlib import Path

from masked_sae.callbacks.metrics import Metrics
from masked_sae.files import write_text


class CurveFile:
    """A sink that appends rows to a CSV file; a resumed run first takes away what came after its checkpoint."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        self._path = path
        if path.exists():
            header, *rows = path.read_text().splitlines()
            kept = [row for row in rows if row.count(",") == header.count(",") and int(row.split(",")[0]) <= resumed_at]
            write_text(path, "\n".join([header, *kept]) + "\n")

    def __call__(self, metrics: Metrics) -> None:
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, metrics)
            if new:
                writer.writeheader()
            writer.writerow(metrics)
