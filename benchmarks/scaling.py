"""How a training step's time grows with `d_sae` and with `k`: figures and a plot.

    python benchmarks/scaling.py --threads 2 --json scaling.json --plot scaling.png

As in `step.py`, the variants take turns, and the points are medians.
"""

import argparse
import json
import os
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it before its first allocation

import torch
from step import Sizes, machine, measure_seconds

WIDTHS = [4096, 8192, 16384, 32768, 65536]
KS = [10, 20, 40, 80, 160, 320]
# Marks and lines differ, so that the plot can be read in grey.
LINES = {"encoder-product": "k:", "ours-matryoshka": "o-C0", "sparsify-topk": "s--C1"}


def measure(sizes: Sizes, repeats: int) -> list[dict[str, Any]]:
    taken = measure_seconds(list(LINES), sizes, repeats)
    rows = [{"name": name, "seconds": statistics.median(seconds), **asdict(sizes)} for name, seconds in taken.items()]
    print(f"d_sae {sizes.d_sae:6} k {sizes.k:4}  " + "  ".join(f"{row['name']} {row['seconds']:.3f}" for row in rows))
    return rows


def plot(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for panel, (key, points) in zip(panels, rows.items(), strict=True):
        for name, line in LINES.items():
            mine = [row for row in points if row["name"] == name]
            panel.loglog([row[key] for row in mine], [row["seconds"] for row in mine], line, label=name)
        ticks = sorted({row[key] for row in points})
        panel.set_xticks(ticks, [f"{tick // 1024}k" if tick >= 1024 else str(tick) for tick in ticks])
        panel.minorticks_off()
        other = "k" if key == "d_sae" else "d_sae"
        panel.set_xlabel(f"{key} ({other} = {points[0][other]:,})")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds a step")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--d-sae", type=int, default=16384, help="while k grows")
    parser.add_argument("--k", type=int, default=40, help="while d_sae grows")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    def sizes(d_sae: int, k: int) -> Sizes:
        return Sizes(arguments.d_in, d_sae, k, arguments.batch, arguments.device)

    about = machine(arguments.device)
    rows = {
        "d_sae": [row for width in WIDTHS for row in measure(sizes(width, arguments.k), arguments.repeats)],
        "k": [row for k in KS for row in measure(sizes(arguments.d_sae, k), arguments.repeats)],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
