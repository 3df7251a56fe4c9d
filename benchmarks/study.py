"""The controls of the study (docs/protocol.md), and its figure, from the folders of its sweeps.

    python benchmarks/study.py --json docs/findings/controls.json --figure docs/results.png

The negative control divides the seeds of one unmasked configuration at random into two sets, pairs them, and asks the
report's statistics how often they differ. The positive control pairs BatchTopK with Matryoshka, unmasked, which the
literature (arXiv 2503.17547) says to absorb less. The figure shows what the sweeps' reports say at matched L0.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from masked_sae.report.design import read_design
from masked_sae.report.findings import Comparison, find
from masked_sae.report.repetitions import Repetition
from masked_sae.report.runs_table import read_runs
from masked_sae.report.statistics import Curve, Difference, averaged_difference

GROUND_TRUTH = {  # metrics, and the L0 that each is compared at
    "ground_truth/absorption_rate": "ground_truth/l0",
    "ground_truth/context_absorption_rate": "ground_truth/l0",
    "ground_truth/mean_max_cosine": "ground_truth/l0",
    "core/explained_variance": "core/l0",
}
MINILM = "absorption/prose/full_absorption_by_contribution"
DIVISIONS = 1000
PAPER = -1 / 3  # of the unmasked absorption, at a rate of 0.3, by secondary accounts


def curves(table: pd.DataFrame, metric: str, l0: str) -> dict[Repetition, Curve]:
    """Of each seed, a metric against L0 along its sparsities."""
    found: dict[Repetition, Curve] = {}
    for seed, rows in table.dropna(subset=[metric]).groupby("seed"):
        ordered = rows.sort_values("sae.k")
        columns = [ordered[name].to_numpy() for name in ("sae.k", l0, metric)]
        found[Repetition(int(str(seed)), int(str(seed)))] = Curve(*columns)
    return found


def summary(difference: Difference) -> dict[str, Any]:
    kept = ("estimate", "low", "high", "p", "spread", "unmasked")
    return {name: getattr(difference, name) for name in kept} | {"pairs": len(difference.paired.those)}


def false_alarms(of: dict[Repetition, Curve], seed: int = 0) -> dict[str, float]:
    """How often two halves of the seeds differ at p < 0.05, over random divisions."""
    rng = np.random.default_rng(seed)
    repetitions, half = list(of), len(of) // 2
    alarms = 0
    for _ in range(DIVISIONS):
        order = rng.permutation(len(repetitions))
        pairs = zip(order[:half], order[half : 2 * half], strict=True)
        places = [(repetitions[one], repetitions[other]) for one, other in pairs]
        sides = ({one: of[one] for one, _ in places}, {one: of[other] for one, other in places})
        alarms += averaged_difference(*sides).p < 0.05
    return {"share": alarms / DIVISIONS, "divisions": DIVISIONS, "seeds": 2 * half}


def unmasked(sweep: Path, architecture: str) -> pd.DataFrame:
    table = read_runs([sweep]).measured
    return table[(table["mask.token.rate"].fillna(0) == 0) & (table["sae.architecture"] == architecture)]


def levelling(sweep: Path, architecture: str) -> dict[str, float]:
    """Explained variance of the batch after each quarter of the training, unmasked, mean over the runs."""
    curves = [pd.read_csv(Path(folder) / "metrics.csv") for folder in unmasked(sweep, architecture)["folder"]]
    found: dict[str, float] = {}
    for quarter in (1, 2, 3, 4):
        nearest = [curve.loc[(curve["step"] / curve["step"].max() - quarter / 4).abs().idxmin()] for curve in curves]
        found[f"{quarter}/4"] = float(np.mean([row["explained_variance"] for row in nearest]))
    return found


def positive(sweep: Path, metrics: dict[str, str]) -> dict[str, Any]:
    sides = [unmasked(sweep, name) for name in ("batch_topk", "matryoshka")]
    found: dict[str, Any] = {}
    for key, l0 in metrics.items():
        one, other = (curves(side, key, l0) for side in sides)
        found[key] = summary(averaged_difference(one, other))
    return found


@dataclass(frozen=True)
class Series:
    """What one architecture on one LM shows of one metric, by mask rate.

    Attributes:
        stratum: that the report calls it by.
    """

    name: str
    sweep: Path
    metric: str
    stratum: str = ""

    def comparisons(self) -> list[Comparison]:
        runs = read_runs([self.sweep])
        found = [one for one in find(runs, read_design(runs)) if one.metric.key == self.metric]
        return [item for one in found if self.stratum in one.stratum for item in one.comparisons]


def draw(path: Path, panels: list[tuple[str, list[Series], bool]], variants: Series) -> None:
    """Changes by mask rate, of each series in the look that its place gives it, and the variants below one another.

    Args:
        panels: title, series, and whether they are shown as a share of the unmasked value.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 2, figsize=(10, 7.6), layout="constrained")
    for axes, (title, series, relative) in zip(grid.flat, panels, strict=False):
        for place, one in enumerate(series):
            at = [(item.arm.rate, item.average) for item in one.comparisons() if item.arm.rate is not None]
            by = [abs(average.unmasked) if relative else 1.0 for _, average in at]
            x = [rate + (place - 1) * 0.012 for rate, _ in at]
            y = [average.estimate / size for (_, average), size in zip(at, by, strict=True)]
            ends = [[average.low, average.high] for _, average in at]
            spans = [[v - e[0] / b, e[1] / b - v] for v, e, b in zip(y, ends, by, strict=True)]
            axes.errorbar(x, y, np.array(spans).T, fmt="osD"[place], capsize=3, color=f"C{place}", label=one.name)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(title=title, xticks=[0.1, 0.3, 0.5], xlabel="mask rate", xlim=(0.05, 0.55))
        axes.set_ylabel("change, as a share of the unmasked value" if relative else "change")
    first, last = grid.flat[0], grid.flat[3]
    first.plot(0.335, PAPER, "*", color="black", markersize=12, label="paper (secondary accounts)")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    shown = variants.comparisons()
    for place, item in enumerate(shown):
        average = item.average
        span = [[average.estimate - average.low], [average.high - average.estimate]]
        last.errorbar(average.estimate, place, xerr=span, fmt="o", capsize=3, color="C0")
    last.set_yticks(range(len(shown)), [item.arm.label.replace(", ", "\n") for item in shown], fontsize=6)
    last.invert_yaxis()
    last.axvline(0, color="grey", linewidth=0.8)
    last.set(title="Absorption, same token: variants (BatchTopK)", xlabel="change")
    figure.savefig(path, dpi=130)


def finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the study's sweeps")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--figure", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    ground_truth, minilm = arguments.runs / "study_ground_truth", arguments.runs / "study_minilm"
    plain = unmasked(ground_truth, "batch_topk")
    found: dict[str, Any] = {
        "negative": {key: false_alarms(curves(plain, key, l0)) for key, l0 in GROUND_TRUTH.items()},
        "positive": positive(ground_truth, GROUND_TRUTH),
        "positive, MiniLM": positive(arguments.runs / "control_minilm", {MINILM: "core/l0"}),
        "training curve": {
            "ground truth, BatchTopK": levelling(ground_truth, "batch_topk"),
            "MiniLM, Matryoshka": levelling(minilm, "matryoshka"),
        },
    }
    for kind, rows in found.items():
        for key, values in rows.items():
            print(f"{kind:18} {key:52}", " ".join(f"{name} {value:.4g}" for name, value in values.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(finite(found), indent=2) + "\n")
    if arguments.figure:
        names = (("ground truth, BatchTopK", "batch_topk"), ("ground truth, Matryoshka", "matryoshka"))

        def series(of_ground_truth: str, of_minilm: str | None) -> list[Series]:
            found = [Series(name, ground_truth, of_ground_truth, kind) for name, kind in names]
            return found if of_minilm is None else [*found, Series("MiniLM, Matryoshka", minilm, of_minilm)]

        absorbed, by_context, _, variance = GROUND_TRUTH
        panels = [
            ("Absorption, both features in one token", series(absorbed, MINILM), True),
            ("Absorption, general feature from the context", series(by_context, None), True),
            ("Explained variance", series(variance, variance), False),
        ]
        variants = Series("variants", arguments.runs / "study_ground_truth_variants", absorbed)
        draw(arguments.figure, panels, variants)


if __name__ == "__main__":
    main()
