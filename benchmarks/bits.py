"""Are the bits the same? One small run of each architecture and each mask on the embedded LM, in any checkout.

    python benchmarks/bits.py --json FILE               this checkout
    python benchmarks/bits.py --checkout DIR --json FILE  another one, by its own commands
    python benchmarks/bits.py --compare A.json B.json

What is compared: the run's id, a digest of its exported weights, and its metrics. The text is the repository's own
documentation, so that another Python's standard library makes no difference. Same bits can be expected of the same kind
of CPU with the same library versions only.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_K = ("relu", "jumprelu", "gated")
RUNS: dict[str, list[str]] = {
    **{f"sae={name}": [f"sae={name}"] for name in ("topk", "batch_topk", "matryoshka", *WITHOUT_K)},
    "mask=none": ["mask=none"],
    "mask=token, random, unmasked positions, spans": [
        "mask.token.rate=0.3",
        "mask.token.replacement=random",
        "mask.token.loss_positions=unmasked",
        "mask.token.span=3",
    ],
    "mask=token, clean target, linear": [
        "mask.token.target=clean",
        "mask.token.schedule=linear",
        "mask.token.initial_rate=0.4",
    ],
    "mask=latent": ["mask=latent"],
    "mask=input": ["mask=input"],
    "all masks": ["mask.latent.rate=0.05", "mask.input.rate=0.05"],
}
SHARED = [
    "data=text",
    "data.train_tokens=20480",
    "data.window_tokens=4096",
    "data.batch_size=256",
    "data.scale_tokens=2048",
    "data.max_epochs=10",
    "data.validation_share=0.2",
    "sae.d_sae=512",
    "sae.dead_after_tokens=4096",
    "sae.calibration_tokens=2048",
    "eval.tokens=2048",
    "eval.concept_tokens=2048",
    "trainer.device=cpu",
    "trainer.threads=1",
    "trainer.progress=false",
    "logger.wandb.mode=disabled",
]


def measure(checkout: Path) -> dict[str, Any]:
    """Trains every run in a folder of its own; `{run: {id, weights, metrics}}`."""
    with tempfile.TemporaryDirectory() as made:
        text = Path(made) / "text"
        text.mkdir()
        for page in ("method", "metrics", "report", "wandb", "results"):
            (text / f"{page}.txt").write_text(_documentation(page))
        return {name: _train(checkout, settings, Path(made), text) for name, settings in RUNS.items()}


def _documentation(page: str) -> str:
    """As it was at one commit, for any checkout to read the same text."""
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "show", f"1c9cfa0:docs/{page}.md"], capture_output=True, text=True, check=True
    )
    return shown.stdout


def _train(checkout: Path, settings: list[str], made: Path, text: Path) -> dict[str, Any]:
    out = made / f"runs{len(list(made.iterdir()))}"
    places = [f"data.path={text}", f"output_dir={out}", f"data.store_dir={made}/tokens", f"eval.cache_dir={made}/cache"]
    command = [sys.executable, "-m", "src.train", *SHARED, *places, *settings]
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
    (results,) = out.glob("*/*/results.json")
    weights = results.parent / "sae" / "sae_weights.safetensors"
    return {
        "id": results.parent.name,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "metrics": json.loads(results.read_text())["metrics"],
    }


def compare(before: dict[str, Any], after: dict[str, Any]) -> bool:
    same = before == after
    for name in dict.fromkeys([*before, *after]):
        one, other = before.get(name, {}), after.get(name, {})
        parts = [f"{part} {'same' if one.get(part) == other.get(part) else 'DIFFER'}" for part in ("id", "weights")]
        differing = [key for key, value in one.get("metrics", {}).items() if other.get("metrics", {}).get(key) != value]
        parts.append(f"metrics {'same' if not differing else 'DIFFER: ' + ', '.join(differing[:3])}")
        print(f"{name}: {'; '.join(parts)}")
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2)
    arguments = parser.parse_args()
    if arguments.compare:
        one, other = (json.loads(path.read_text()) for path in arguments.compare)
        sys.exit(0 if compare(one, other) else 1)
    measured = json.dumps(measure(arguments.checkout.resolve()), indent=1, sort_keys=True) + "\n"
    if arguments.json:
        arguments.json.write_text(measured)
    else:
        print(measured)


if __name__ == "__main__":
    main()
