"""Times one training step of an SAE, ours and the peers', against the encoder's matrix product alone.

    python benchmarks/step.py --threads 2 --json step.json

A step is forward, loss, backward, gradient projection, Adam and decoder normalisation, as each
library's own trainer does them. All variants take turns in one process, so that what else the machine does hits
them alike. The table holds medians of seconds, and medians of the rounds' ratios: a ratio compares steps that were a
moment apart. Memory comes in huge pages (for all variants), as in `python -m src.train`. Peak memory is measured beside
it, each variant in a process of its own: weights, Adam's moments and all that a step needs on top. Architectures that
have no `k` (`--only ours-relu saelens-relu ...`) are timed with about as many active latents. Peers:
`pip install -e '.[peers]'`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it before its first allocation

import torch

Step = Callable[[], object]
COMPILED = ("topk", "batch_topk", "matryoshka", "relu", "jumprelu", "gated")
GROUP_FRACTIONS = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32]
LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class Sizes:
    d_in: int
    d_sae: int
    k: int
    batch: int
    device: str

    def batches(self) -> Callable[[], torch.Tensor]:
        """Gives one of a few batches at a time, the same to every variant."""
        generator = torch.Generator().manual_seed(0)
        kept = [torch.randn(self.batch, self.d_in, generator=generator).to(self.device) for _ in range(4)]
        turn = iter(range(1 << 62))
        return lambda: kept[next(turn) % len(kept)]


def encoder_product(sizes: Sizes) -> Step:
    batches = sizes.batches()
    weight = torch.randn(sizes.d_in, sizes.d_sae, device=sizes.device)
    bias = torch.zeros(sizes.d_sae, device=sizes.device)
    return lambda: torch.relu(batches() @ weight + bias)


def ours(sizes: Sizes, architecture: str, compiler: str | None = None, **options: Any) -> Step:
    from masked_sae.saes import BatchTopKSAE, GatedSAE, JumpReLUSAE, MatryoshkaSAE, ReLUSAE, TopKSAE, group_sizes
    from masked_sae.training.compiled import compiled

    with_k = {"topk": TopKSAE, "batch_topk": BatchTopKSAE, "matryoshka": MatryoshkaSAE}
    penalized = {"relu": ReLUSAE, "jumprelu": JumpReLUSAE, "gated": GatedSAE}
    if architecture == "matryoshka":
        options["groups"] = group_sizes(sizes.d_sae, GROUP_FRACTIONS)
    if architecture in penalized:
        sae = penalized[architecture](sizes.d_in, sizes.d_sae, 1.0, **options).to(sizes.device)
        leave_k_active(sae.b_enc_F, sae.W_enc_DF, sizes.k, sae.thresholds().max().item())
    else:
        sae = with_k[architecture](sizes.d_in, sizes.d_sae, sizes.k, aux_k=sizes.d_in // 2, **options).to(sizes.device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LEARNING_RATE, fused=True)
    batches = sizes.batches()
    training_output = sae.training_output if compiler is None else compiled(sae.training_output, compiler)

    def step() -> None:
        x_BD = batches()
        training_output(x_BD, x_BD).loss.backward()
        sae.project_decoder_gradient()
        optimizer.step()
        sae.project_parameters()
        optimizer.zero_grad()

    return step


@torch.no_grad()
def leave_k_active(biases_F: torch.Tensor, W_enc_DF: torch.Tensor, k: int, threshold: float) -> None:
    """Has about `k` latents be active, as after training: normal activations give pre-activations as wide as rows are
    long. Without it an SAE without a `k` starts with half of its latents.
    """
    deviations = statistics.NormalDist().inv_cdf(1 - k / len(biases_F))
    biases_F.copy_(threshold - deviations * W_enc_DF.norm(dim=0))


def saelens(sizes: Sizes, architecture: str) -> Step:
    """SAELens' own trainer, one `step` at a time."""
    from sae_lens import LoggingConfig, registry
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    options: dict[str, Any] = {"d_in": sizes.d_in, "d_sae": sizes.d_sae, "device": sizes.device}
    if architecture in ("matryoshka_batchtopk", "batchtopk"):
        options["k"] = sizes.k
    if architecture == "matryoshka_batchtopk":
        options["matryoshka_widths"] = [
            round(sizes.d_sae * sum(GROUP_FRACTIONS[: i + 1])) for i in range(len(GROUP_FRACTIONS))
        ]
    training_class, config_class = registry.get_sae_training_class(architecture)
    sae = training_class(config_class(**options))
    if architecture in ("standard", "jumprelu", "gated"):
        threshold = sae.threshold.max().item() if architecture == "jumprelu" else 0.0
        leave_k_active(sae.b_gate if architecture == "gated" else sae.b_enc, sae.W_enc, sizes.k, threshold)
    config = SAETrainerConfig(
        total_training_samples=sizes.batch * 1_000_000,
        train_batch_size_samples=sizes.batch,
        device=sizes.device,
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=0,
        n_restart_cycles=1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        autocast=False,
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        feature_sampling_window=1000,
        dead_feature_window=1000,
        logger=LoggingConfig(log_to_wandb=False),
    )
    batches = sizes.batches()
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(batches, None))  # type: ignore[arg-type]
    return lambda: trainer.step(batches())


def sparsify_topk(sizes: Sizes) -> Step:
    """The step written out in sparsify's `Trainer.fit`, with its Adam; that trainer cannot run without an LM."""
    from sparsify import SparseCoder, SparseCoderConfig

    config = SparseCoderConfig(num_latents=sizes.d_sae, k=sizes.k)
    coder = SparseCoder(sizes.d_in, config, device=sizes.device, dtype=torch.float32)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LEARNING_RATE)
    silent_for = torch.zeros(sizes.d_sae, dtype=torch.long, device=sizes.device)
    batches = sizes.batches()

    def step() -> None:
        coder.set_decoder_norm_to_unit_norm()
        out = coder(batches())
        fired = torch.zeros(sizes.d_sae, dtype=torch.bool, device=sizes.device)
        fired[out.latent_indices.flatten()] = True
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        silent_for.add_(sizes.batch).masked_fill_(fired, 0)

    return step


VARIANTS: dict[str, Callable[[Sizes], Step]] = {
    "encoder-product": encoder_product,
    "ours-matryoshka": lambda sizes: ours(sizes, "matryoshka"),
    "ours-batch_topk": lambda sizes: ours(sizes, "batch_topk"),
    "ours-topk": lambda sizes: ours(sizes, "topk"),
    "saelens-matryoshka": lambda sizes: saelens(sizes, "matryoshka_batchtopk"),
    "saelens-batch_topk": lambda sizes: saelens(sizes, "batchtopk"),
    "sparsify-topk": sparsify_topk,
    # not among the defaults: --only
    "ours-matryoshka-bfloat16": lambda sizes: ours(sizes, "matryoshka", compute_dtype=torch.bfloat16),
    "ours-matryoshka-reference": lambda sizes: ours(sizes, "matryoshka", reference=True),
    "ours-relu": lambda sizes: ours(sizes, "relu"),
    "ours-jumprelu": lambda sizes: ours(sizes, "jumprelu"),
    "ours-gated": lambda sizes: ours(sizes, "gated"),
    **{f"ours-{name}-static": partial(ours, architecture=name, shapes="static") for name in COMPILED},
    **{
        f"ours-{name}-compiled": partial(ours, architecture=name, shapes="static", compiler="inductor")
        for name in COMPILED
    },
    "saelens-relu": lambda sizes: saelens(sizes, "standard"),
    "saelens-jumprelu": lambda sizes: saelens(sizes, "jumprelu"),
    "saelens-gated": lambda sizes: saelens(sizes, "gated"),
}
DEFAULT = list(VARIANTS)[:7]


def measure_seconds(names: list[str], sizes: Sizes, repeats: int) -> dict[str, list[float]]:
    """Times of the steps of each variant."""
    steps = {name: VARIANTS[name](sizes) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            synchronize(sizes)
            start = time.perf_counter()
            step()
            synchronize(sizes)
            if repeat > 0:  # the first one warms up
                taken[name].append(time.perf_counter() - start)
    return taken


def synchronize(sizes: Sizes) -> None:
    if sizes.device == "cuda":
        torch.cuda.synchronize()


def measure_peak(name: str, sizes: Sizes) -> int:
    """Most memory that the variant holds at a time, after a step that makes Adam's moments, in bytes."""
    if sizes.device == "cuda":
        step = VARIANTS[name](sizes)
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    VARIANTS[name](Sizes(8, 64, 2, 16, "cpu"))()  # what libraries load and allocate once is none of the step's
    before = memory("VmRSS")
    step = VARIANTS[name](sizes)
    step()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    step()
    return memory("VmHWM") - before


def memory(key: str) -> int:
    """A size of this process from Linux' /proc, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def peak_in_own_process(name: str, arguments: argparse.Namespace) -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    command = [sys.executable, __file__, "--peak-of", name, "--threads", str(arguments.threads)]
    for key in ("d_in", "d_sae", "k", "batch", "device"):
        command += [f"--{key.replace('_', '-')}", str(getattr(arguments, key))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def machine(device: str) -> dict[str, Any]:
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    about |= {"python": platform.python_version(), "load_before": load, "device": device}
    return about | ({"accelerator": torch.cuda.get_device_name()} if device == "cuda" else {})


def median_ratio(seconds: list[float], others: list[float]) -> float:
    """Median over the rounds of how often `others` fits into `seconds`."""
    return statistics.median(mine / other for mine, other in zip(seconds, others, strict=True))


def table(rows: list[dict[str, Any]], taken: dict[str, list[float]]) -> str:
    lines = [f"{'':28}{'seconds':>10}{'fastest':>10}{'x product':>11}{'peak MiB':>10}"]
    for row in rows:
        ratio, peak = row["ratio_to_encoder_product"], row["peak_bytes"]
        last = f"{'' if ratio is None else f'{ratio:.2f}':>11}{'' if peak is None else peak >> 20:>10}"
        lines.append(f"{row['name']:28}{row['seconds']:10.4f}{row['fastest_seconds']:10.4f}{last}")
    ours_rows = [row for row in rows if row["name"].startswith("ours-")]
    peers = [row for row in rows if row["name"].startswith(("saelens-", "sparsify-"))]
    lines += [""] if ours_rows and peers else []
    for row in ours_rows:
        mine = taken[row["name"]]
        faster = ", ".join(f"{median_ratio(taken[peer['name']], mine):.2f}x {peer['name']}" for peer in peers)
        if faster:
            lines.append(f"{row['name']} is as fast as {faster}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--d-sae", type=int, default=16384)
    parser.add_argument("--k", type=int, default=40)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=DEFAULT, metavar="NAME")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--peak-of", choices=list(VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = Sizes(arguments.d_in, arguments.d_sae, arguments.k, arguments.batch, arguments.device)
    if arguments.peak_of:
        print(measure_peak(arguments.peak_of, sizes))
        return
    about = machine(arguments.device)
    taken = measure_seconds(arguments.only, sizes, arguments.repeats)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    product = taken.get("encoder-product")
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "seconds": median,
            "fastest_seconds": min(taken[name]),
            "peak_bytes": None if arguments.no_memory else peak_in_own_process(name, arguments),
            "ratio_to_encoder_product": None if product is None else median_ratio(taken[name], product),
            "round_seconds": taken[name],
        }
        for name, median in medians.items()
    ]
    if arguments.json:
        text = {"machine": about, "sizes": vars(sizes), "repeats": arguments.repeats, "rows": rows}
        arguments.json.write_text(json.dumps(text, indent=2) + "\n")
    print(table(rows, taken))


if __name__ == "__main__":
    main()
