"""Where the noise of a paired difference comes from, and whether the instrument sees what it has to see.

    python -m src.train +sweep=noise -m
    python benchmarks/noise.py runs/noise --json noise.json

The sweep trains every text order (data.seed) with every first weights (seed), masked and not, Matryoshka and BatchTopK.
Each SAE is measured with several `eval.seed`s, which draw the probes' batches, the split, and where there is a choice
the texts. Two differences of absorption are looked at, pair by pair: masked minus unmasked, and Matryoshka minus
BatchTopK without masking, of which the literature (arXiv 2503.17547) says that it is below zero. A random-effects
analysis of variance of the crossed and balanced design tells what each factor adds to the spread of a pair. Components
may come out negative, where a factor does nothing: they are shown as they are.
"""

import argparse
import itertools
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masked_sae.report.statistics import t_interval
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder

FACTORS = ("text order", "first weights", "evaluation", "concepts")
Effect = tuple[int, ...]
Array = NDArray[np.float64]


def components(values: Array) -> dict[Effect, float]:
    """Variance of each effect of a balanced crossed design, one axis a factor; the last is what is left over.

    Mean squares, and from the highest interaction down what their expectations leave (Searle, Casella and McCulloch
    1992, "Variance Components", section 4.3).
    """
    axes = range(values.ndim)
    effects = [effect for size in range(1, values.ndim + 1) for effect in itertools.combinations(axes, size)]
    parts: dict[Effect, Array] = {(): values.mean(keepdims=True)}
    squares: dict[Effect, float] = {}
    for effect in effects:
        others = tuple(axis for axis in axes if axis not in effect)
        below = (lower for size in range(len(effect)) for lower in itertools.combinations(effect, size))
        parts[effect] = values.mean(axis=others, keepdims=True) - sum(parts[lower] for lower in below)
        degrees = np.prod([values.shape[axis] - 1 for axis in effect])
        copies = np.prod([values.shape[axis] for axis in others], initial=1.0)
        squares[effect] = float(copies * (parts[effect] ** 2).sum() / degrees)
    found: dict[Effect, float] = {}
    for effect in reversed(effects):
        above = [other for other in found if set(effect) < set(other)]
        copies = {
            one: float(np.prod([values.shape[axis] for axis in axes if axis not in one], initial=1.0))
            for one in (*above, effect)
        }
        found[effect] = (squares[effect] - sum(copies[one] * found[one] for one in above)) / copies[effect]
    return found


def variance_of_a_pair(found: dict[Effect, float], shape: tuple[int, ...]) -> dict[str, float]:
    """What each factor adds to the variance of one pair's mean over the concepts, one level of each other factor.

    Interactions count for the last factor in them. What the concepts differ by in every pair counts for nothing: all
    pairs are measured on all of them.
    """
    added = dict.fromkeys(FACTORS, 0.0)
    for effect, variance in found.items():
        if effect != (3,):
            added[FACTORS[effect[-1]]] += variance / (shape[3] if 3 in effect else 1)
    return added


@dataclass(frozen=True)
class Place:
    """Of one figure of one SAE."""

    metric: str
    architecture: str
    rate: float
    data_seed: int
    seed: int
    eval_seed: int
    concept: str


COMPARED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "masked - unmasked": ({"architecture": "matryoshka", "rate": 0.3}, {"architecture": "matryoshka", "rate": 0.0}),
    "Matryoshka - BatchTopK": (
        {"architecture": "matryoshka", "rate": 0.0},
        {"architecture": "batch_topk", "rate": 0.0},
    ),
}


def measured(sweep: Path, concepts: list[str], eval_seeds: list[int], tokens: int) -> dict[Place, float]:
    """Full absorption, and of pairs, by the commands of this project."""
    found: dict[Place, float] = {}
    for eval_seed in eval_seeds:
        asked = [
            f"sweep={sweep}",
            "eval.families=[absorption]",
            f"eval.concepts=[{','.join(concepts)}]",
            f"eval.concept_tokens={tokens}",
            f"eval.seed={eval_seed}",
        ]
        subprocess.run([sys.executable, "-m", "src.evaluate", *asked], check=True, stdout=subprocess.DEVNULL)
        for path in sorted(sweep.glob("*/evals/absorption.json")):
            config: Any = read_config(RunFolder(path.parents[1]).config)
            own = config.data.get("seed")  # not on record where it is the run's seed
            data_seed = config.seed if own is None else own
            of_run = config.sae.architecture, config.mask.token.rate, data_seed, config.seed, eval_seed
            for metric, rows in json.loads(path.read_text())["details"].items():
                for row in rows:
                    if "absorbed" in row:
                        found[Place(metric, *of_run, f"{row['general']}/{row['special']}")] = row["absorbed"]
                    else:
                        found[Place(metric, *of_run, row["concept"])] = row["full_absorption"]
    return found


def differences(found: dict[Place, float], metric: str, first: dict[str, Any], second: dict[str, Any]) -> Array:
    """(text orders, first weights, evaluations, concepts), over the concepts that every SAE was measured on."""
    here = [place for place in found if place.metric == metric]
    axes = [sorted({getattr(place, name) for place in here}) for name in ("data_seed", "seed", "eval_seed", "concept")]
    crossed = list(itertools.product(*axes[:3]))

    def value(side: dict[str, Any], *place: Any) -> float | None:
        data_seed, seed, eval_seed, concept = place
        return found.get(
            Place(metric=metric, data_seed=data_seed, seed=seed, eval_seed=eval_seed, concept=concept, **side)
        )

    sides = (first, second)
    concepts = [one for one in axes[3] if all(value(side, *at, one) is not None for at in crossed for side in sides)]
    values = [value(first, *at, one) - value(second, *at, one) for at in crossed for one in concepts]  # type: ignore
    return np.array(values).reshape(*map(len, axes[:3]), len(concepts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the folder of +sweep=noise")
    parser.add_argument("--concepts", nargs="+", default=["token_class", "python_syntax"])
    parser.add_argument("--eval-seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--tokens", type=int, default=16_384, help="eval.concept_tokens")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = measured(arguments.sweep, arguments.concepts, arguments.eval_seeds, arguments.tokens)
    rows: list[dict[str, Any]] = []
    print(f"{'':62}{'mean [95 % over text orders]':>30}{'spread':>8}  share of {', '.join(FACTORS)}")
    for compared, sides in COMPARED.items():
        for metric in dict.fromkeys(place.metric for place in found):
            values = differences(found, metric, *sides)
            added = variance_of_a_pair(components(values), values.shape)
            total = sum(added.values())
            interval = t_interval(values.mean(axis=(1, 2, 3)))
            row = {
                "compared": compared,
                "metric": metric,
                "shape": dict(zip(FACTORS, values.shape, strict=True)),
                "mean": interval.mean,
                "interval": [interval.low, interval.high],
                "spread_of_a_pair": math.sqrt(max(0.0, total)),
                "variance": added,
            }
            rows.append(row)
            shares = " ".join(f"{variance / total:6.0%}" for variance in added.values())
            shown = f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
            print(f"{compared:24}{metric:38}{shown:>30}{row['spread_of_a_pair']:8.3f}  {shares}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
