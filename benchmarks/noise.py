"""Where the noise of a paired difference comes from: text order, first weights, the evaluation's own draw, concepts.

    python -m src.train +sweep=noise -m
    python benchmarks/noise.py runs/noise --concepts token_class python_syntax --json noise.json

The sweep trains every text order (data.seed) with every first weights (seed), masked and not. Each SAE is measured with
several `eval.seed`s, which draw the probes' batches, the split, and where there is a choice the texts. What is taken
apart is masked minus unmasked full absorption: a random-effects analysis of variance of a design that is crossed and
balanced. Its components may come out negative, where a factor does nothing: they are shown as they are.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder

FACTORS = ("text order", "first weights", "evaluation", "concepts")
Effect = tuple[int, ...]


def components(values: NDArray[np.float64]) -> dict[Effect, float]:
    """Variance of each effect of a balanced crossed design, one axis a factor; the last is what is left over.

    Mean squares, and from the highest interaction down what their expectations leave (Searle, Casella and McCulloch
    1992, "Variance Components", section 4.3).
    """
    axes = range(values.ndim)
    effects = [effect for size in range(1, values.ndim + 1) for effect in itertools.combinations(axes, size)]
    parts: dict[Effect, NDArray[np.float64]] = {(): values.mean(keepdims=True)}
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


def measured(sweep: Path, concepts: list[str], eval_seeds: list[int], tokens: int) -> dict[tuple[Any, ...], float]:
    """Full absorption by set and ranking, rate, data seed, seed, eval seed, concept."""
    found: dict[tuple[Any, ...], float] = {}
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
            pair = config.mask.token.rate, config.data.seed, config.seed
            for name, rows in json.loads(path.read_text())["details"].items():
                for row in rows:
                    if "full_absorption" in row:
                        found[(name, *pair, eval_seed, row["concept"])] = row["full_absorption"]
    return found


def differences(found: dict[tuple[Any, ...], float], name: str) -> NDArray[np.float64]:
    """(text orders, first weights, evaluations, concepts), over the concepts that every SAE was measured on."""
    rows = {place[1:]: value for place, value in found.items() if place[0] == name}
    axes = [sorted({place[axis] for place in rows}) for axis in range(5)]
    (unmasked, masked), *others, concepts = axes[0], *axes[1:4], axes[4]
    crossed = list(itertools.product(axes[0], *others))
    concepts = [one for one in concepts if all((*place, one) in rows for place in crossed)]
    shape = tuple(len(axis) for axis in (*others, concepts))
    values = [rows[(masked, *place)] - rows[(unmasked, *place)] for place in itertools.product(*others, concepts)]
    return np.array(values).reshape(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="of two mask rates, and every data.seed with every seed")
    parser.add_argument("--concepts", nargs="+", default=["token_class", "python_syntax"])
    parser.add_argument("--eval-seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=16_384, help="eval.concept_tokens")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = measured(arguments.sweep, arguments.concepts, arguments.eval_seeds, arguments.tokens)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(place[0] for place in found):
        values = differences(found, name)
        added = variance_of_a_pair(components(values), values.shape)
        means = values.mean(axis=3)
        rows.append(
            {
                "concepts": name,
                "shape": dict(zip(FACTORS, values.shape, strict=True)),
                "mean": float(values.mean()),
                "spread": float(np.sqrt(max(0.0, sum(added.values())))),
                "spread_between_text_orders": float(means.mean(axis=(1, 2)).std(ddof=1)),
                "variance": added,
            }
        )
        total = sum(added.values())
        shares = ", ".join(f"{factor} {variance / total:.0%}" for factor, variance in added.items())
        print(f"{name}: mean {values.mean():+.3f}, spread of a pair {total**0.5:.3f}; {shares} {values.shape}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
