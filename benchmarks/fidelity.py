"""Trains each architecture twice on the very same batches: by this project, and by SAELens' own training.

    python benchmarks/fidelity.py --json benchmarks/results/fidelity.json

Both have the embedded LM's activations, scaled to a mean squared norm of `d_in`, the same optimizer, learning rate,
schedule and clipping of gradients; everything else is each one's own: initial weights, loss, treatment of dead
latents, JumpReLU's kernel. Each is trained at several sparsities. On held-out text an SAE that has a `k` and a
threshold gets the threshold that leaves `k` active; explained variance is then compared at equal L0, interpolated in
its logarithm, pair by pair, by the report's own statistics. A latent is dead that fires on none of the held-out
activations.

Peers: `pip install -e '.[peers]'`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step import GROUP_FRACTIONS, machine
from torch import Tensor

from masked_sae.activations.held_out import activation_batches, sequences_to_measure
from masked_sae.activations.scale import measure_statistics
from masked_sae.activations.stream import Batch
from masked_sae.activations.windows import Point
from masked_sae.config import RunConfig, typed_config
from masked_sae.interop.saelens import load_sae
from masked_sae.masks.run_masks import Masks
from masked_sae.randomness import torch_generator
from masked_sae.report.repetitions import Repetition
from masked_sae.report.statistics import Curve, averaged_difference
from masked_sae.runs.run import make_run
from masked_sae.saes import InferenceSAE, for_inference
from masked_sae.training.assemble import load_parts, make_stream
from masked_sae.training.calibration import calibrated
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.schedule import Schedule

ROOT = Path(__file__).resolve().parents[1]
KS = (8, 16, 32)
WARMUP_STEPS, DECAY_FRACTION = 100, 0.2


@dataclass(frozen=True)
class Architecture:
    """Attributes:
    theirs: SAELens' name.
    setting: that makes it sparse here, and SAELens' of the same meaning.
    ours_at, theirs_at: its values, sparsest last where it is a price; chosen such that both reach the same L0s.
    """

    theirs: str
    setting: str
    their_setting: str
    ours_at: tuple[float, ...]
    theirs_at: tuple[float, ...]

    @property
    def has_k(self) -> bool:
        return self.setting == "k"


def with_k(theirs: str) -> Architecture:
    return Architecture(theirs, "k", "k", KS, KS)


ARCHITECTURES = {
    "topk": with_k("topk"),
    "batch_topk": with_k("batchtopk"),
    "matryoshka": with_k("matryoshka_batchtopk"),
    "relu": Architecture("standard", "sparsity_coefficient", "l1_coefficient", (2, 3, 5), (1.5, 2, 4)),
    "jumprelu": Architecture("jumprelu", "sparsity_coefficient", "l0_coefficient", (6, 20, 60), (1000, 2000, 3000)),
    "gated": Architecture("gated", "sparsity_coefficient", "l1_coefficient", (4, 6, 9), (2, 3, 4)),
}


@dataclass(frozen=True)
class Activations:
    """What both train and are measured on, scaled.

    Attributes:
        mean_D: where this project's decoder bias begins.
    """

    batches: Sequence[Tensor]
    held_out_BD: Tensor
    mean_D: Tensor

    @property
    def d_in(self) -> int:
        return len(self.mean_D)


@dataclass(frozen=True)
class Measured:
    l0: float
    explained_variance: float
    dead: float
    seconds: float


def config_of(arguments: argparse.Namespace, folder: Path, *overrides: str) -> RunConfig:
    from hydra import compose, initialize_config_dir

    settings = [
        "mask=none",
        "data.context_length=128",
        f"data.batch_size={arguments.batch}",
        f"data.train_tokens={arguments.tokens}",
        f"sae.d_sae={arguments.d_sae}",
        f"trainer.threads={arguments.threads}",
        "trainer.device=cpu",
        "logger.wandb.mode=disabled",
        f"output_dir={folder / 'runs'}",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return typed_config(compose("train", [*settings, *overrides]))


def read_activations(arguments: argparse.Namespace, folder: Path, seed: int) -> Activations:
    run = make_run(config_of(arguments, folder, f"seed={seed}"), {})
    parts = load_parts(run, torch.device("cpu"))
    lm, data = run.config.lm, run.config.data
    (statistics,) = measure_statistics([parts.lm], parts.sequences, data.scale_tokens, lm.batch_size)
    if isinstance(statistics, Exception):
        raise statistics
    stream = make_stream(run, parts, [Point(lm.hook_name, statistics.scale)])
    batches = [stream.batch(step).x_BD.clone() for step in range(parts.plan.steps)]
    indices = sequences_to_measure(parts.held_out, arguments.held_out)
    held_out = [batch.x_BD for batch in activation_batches(parts.lm, parts.held_out, indices, lm.batch_size)]
    return Activations(batches, torch.cat(held_out) * statistics.scale, statistics.mean_D * statistics.scale)


def train_ours(config: RunConfig, found: Activations, learning_rate: float) -> InferenceSAE:
    sae = config.sae.make(found.d_in, torch_generator(config.seed, "initial weights"))
    with torch.no_grad():
        sae.b_dec_D.copy_(found.mean_D)
    schedule = Schedule(learning_rate, WARMUP_STEPS, DECAY_FRACTION, len(found.batches))
    options: dict[str, Any] = {"penalty_warmup_steps": config.sae.penalty_warmup_steps, "seed": config.seed}
    training = SAETraining(sae, schedule, Masks({}), gradient_clip=config.optim.gradient_clip, **options)
    for x_BD in found.batches:
        training.learn(Batch(x_BD.clone(), x_BD, 0.0))
    return for_inference(sae.eval(), 1.0)


def train_theirs(
    architecture: Architecture,
    value: float,
    arguments: argparse.Namespace,
    found: Activations,
    seed: int,
    folder: Path,
) -> InferenceSAE:
    from sae_lens import registry
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    options: dict[str, Any] = {architecture.their_setting: int(value) if architecture.has_k else value}
    if not architecture.has_k:
        options[architecture.their_setting.replace("coefficient", "warm_up_steps")] = WARMUP_STEPS
    if architecture.theirs == "matryoshka_batchtopk":
        options["matryoshka_widths"] = [round(arguments.d_sae * sum(GROUP_FRACTIONS[: i + 1])) for i in range(5)]
    training_class, config_class = registry.get_sae_training_class(architecture.theirs)
    torch.manual_seed(seed)  # SAELens draws from torch's own state
    sae = training_class(config_class(d_in=found.d_in, d_sae=arguments.d_sae, device="cpu", **options))
    batch, steps = len(found.batches[0]), len(found.batches)
    config = SAETrainerConfig(
        total_training_samples=batch * steps,
        train_batch_size_samples=batch,
        lr=arguments.learning_rate,
        lr_end=arguments.learning_rate,  # from which it decays to 0
        lr_warm_up_steps=WARMUP_STEPS,
        lr_decay_steps=round(DECAY_FRACTION * steps),
    )
    trained = SAETrainer(config, sae, iter(found.batches)).fit()
    trained.save_inference_model(str(folder))
    return load_sae(folder)[0]


@torch.inference_mode()
def measure(sae: InferenceSAE, k: int | None, held_out_BD: Tensor, seconds: float) -> Measured:
    """At `k` where there is one, on the first half of the held-out activations; measured on the second."""
    half = len(held_out_BD) // 2
    if k is not None and sae.k is None:
        sae = calibrated(sae, k, [held_out_BD[:half]])
    fired_F = torch.zeros(sae.d_sae, dtype=torch.bool)
    squared, active = 0.0, 0
    read_BD = held_out_BD[half:]
    for x_BD in read_BD.split(2048):
        f_BF = sae.encode(x_BD)
        fired_F |= (f_BF > 0).any(0)
        active += int((f_BF > 0).sum())
        squared += float((x_BD - sae.decode(f_BF)).square().sum(dtype=torch.float64))
    variance = float((read_BD - read_BD.mean(0)).square().sum(dtype=torch.float64))
    dead = 1 - fired_F.float().mean().item()
    return Measured(active / len(read_BD), 1 - squared / variance, dead, seconds)


def trained_both(
    name: str, place: int, arguments: argparse.Namespace, found: Activations, seed: int, folder: Path
) -> Iterator[tuple[str, Measured]]:
    architecture = ARCHITECTURES[name]
    ours, theirs = architecture.ours_at[place], architecture.theirs_at[place]
    k = int(ours) if architecture.has_k else None
    config = config_of(arguments, folder, f"seed={seed}", f"sae={name}", f"sae.{architecture.setting}={ours}")
    exported = folder / f"{name}-{place}-{seed}"
    makers = {
        "ours": lambda: train_ours(config, found, arguments.learning_rate),
        "theirs": lambda: train_theirs(architecture, theirs, arguments, found, seed, exported),
    }
    for side, make in makers.items():
        start = time.perf_counter()
        sae = make()
        yield side, measure(sae, k, found.held_out_BD, time.perf_counter() - start)


Curves = dict[str, dict[Repetition, list[Measured]]]


def row_of(name: str, curves: Curves) -> dict[str, Any]:
    """Ours minus theirs at equal L0, and the share of dead latents over all runs."""

    def curve(measured: list[Measured]) -> Curve:
        l0_K, value_K = (np.array([getattr(one, key) for one in measured]) for key in ("l0", "explained_variance"))
        return Curve(np.arange(len(measured)), l0_K, value_K)

    sides = {side: {one: curve(measured) for one, measured in of.items()} for side, of in curves.items()}
    difference = averaged_difference(sides["theirs"], sides["ours"])
    kept = ("estimate", "low", "high", "p", "l0_low", "l0_high")
    row = {"name": name, "theirs": difference.unmasked, **{key: getattr(difference, key) for key in kept}}
    row["pairs"] = len(difference.paired.those)
    for side, of in curves.items():
        every = [one for measured in of.values() for one in measured]
        row[f"dead_{side}"] = float(np.mean([one.dead for one in every]))
        row[f"seconds_{side}"] = float(np.mean([one.seconds for one in every]))
        row[f"runs_{side}"] = [[vars(one) for one in measured] for measured in of.values()]
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| | L0 | explained variance, SAELens | ours minus SAELens | pairs | dead, SAELens | dead, ours |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        if not np.isfinite(row["estimate"]):
            lines.append(f"| {row['name']} | | | nothing: the two have no L0 in common | | | |")
            continue
        shown = f"{row['estimate']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}], p {row['p']:.3f}"
        if not row["p"] < 0.05:
            shown += ": no detectable difference" if row["pairs"] > 1 else ": one pair, which says nothing"
        lines.append(
            f"| {row['name']} | {row['l0_low']:.1f} to {row['l0_high']:.1f} | {row['theirs']:.3f} | {shown} "
            f"| {row['pairs']} | {row['dead_theirs']:.1%} | {row['dead_ours']:.1%} |"
        )
    return "\n".join(lines)


def finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--held-out", type=int, default=65_536, help="half of them for thresholds")
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument(
        "--learning-rate", type=float, default=1e-2, help="of both: of 1e-3, 3e-3 and this the best for both"
    )
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = machine("cpu")
    curves: dict[str, Curves] = {name: {"theirs": {}, "ours": {}} for name in arguments.only}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            found = read_activations(arguments, Path(temporary), seed)
            for name in arguments.only:
                for place in range(len(ARCHITECTURES[name].ours_at)):
                    for side, measured in trained_both(name, place, arguments, found, seed, Path(temporary)):
                        curves[name][side].setdefault(Repetition(seed, seed), []).append(measured)
                        print(
                            f"{name:12} {seed} {side:7}",
                            *(f"{key} {value:.4g}" for key, value in vars(measured).items()),
                        )
    rows = [row_of(name, curves[name]) for name in arguments.only]
    if arguments.json:
        sizes = {key: value for key, value in vars(arguments).items() if key not in ("json", "only")}
        kept = [{key: finite(value) for key, value in row.items()} for row in rows]
        arguments.json.write_text(json.dumps({"machine": about, "sizes": sizes, "rows": kept}, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
