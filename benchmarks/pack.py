"""Times packs: so many SAEs trained from one forward of the LM, beside SAELens' runner for several.

    python benchmarks/pack.py --json pack.json
    python benchmarks/pack.py --only pack-1 pack-4 --steps 16

The LM has the shape of Pythia-160M (12 layers, 768 dimensions; read at layer 8) and random weights. The variants take
turns, each in a process of its own, from its first step to its last; the table holds medians. Seconds are for a batch
of the whole pack, and leave out the checkpoint after the last step, as the peer writes none: of thousands of steps it
is nothing, of these few it would be a tenth.

    pack-1 to pack-16   so many Matryoshka SAEs, of k 20, 40, 80 and 160 and of several seeds on one text order
    saelens-multi-4     SAELens' MultiSAETrainingRunner with the first four, in its fastest setting: no buffer to mix
                        activations in, no checkpoints, no evaluation

Peers: `pip install -e '.[peers]'`. `--plot FILE` draws the cost per SAE and the memory from a file of `--json`.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it before its first allocation

import torch
from step import GROUP_FRACTIONS, LEARNING_RATE, machine, memory

from train import assembled, in_own_process, make_pythia_shaped, make_text, medians, run_config

KS = (20, 40, 80, 160)
PACKS = {f"pack-{size}": size for size in (1, 2, 4, 8, 16)}
SAELENS = "saelens-multi-4"


def measure_pack(arguments: argparse.Namespace, size: int) -> float:
    from masked_sae.runs.run import make_run
    from masked_sae.training import train_pack as training
    from masked_sae.training.callbacks import checkpointing

    quiet = ["mask=none", "data.seed=0", "sae.calibrate=none", "pack=auto"]
    members = [[f"sae.k={KS[i % len(KS)]}", f"seed={i // len(KS)}"] for i in range(size)]
    runs = [make_run(run_config(arguments, *quiet, *member), {}) for member in members]
    whole, checkpoints = list[float](), list[float]()
    training.fit = timed(training.fit, whole)
    checkpointing.save_checkpoint = timed(checkpointing.save_checkpoint, checkpoints)
    for outcome in training.train_pack(runs):
        if outcome.error is not None:
            raise outcome.error
    return whole[0] - sum(checkpoints)


def timed(function: Callable[..., Any], taken: list[float]) -> Callable[..., Any]:
    """The function, which notes the seconds of each call."""

    def call(*given: Any) -> Any:
        start = time.perf_counter()
        result = function(*given)
        taken.append(time.perf_counter() - start)
        return result

    return call


def measure_saelens(arguments: argparse.Namespace) -> float:
    import numpy as np
    from datasets import Dataset
    from sae_lens import LoggingConfig
    from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
    from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAEConfig
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    parts = assembled(arguments)
    sequences = parts.sequences.sequences
    needed = arguments.steps * arguments.batch // arguments.context_length + 4 * arguments.lm_batch
    tokens_NT, _ = sequences.read(np.arange(needed) % len(sequences))
    widths = [round(arguments.d_sae * sum(GROUP_FRACTIONS[: i + 1])) for i in range(len(GROUP_FRACTIONS))]
    shape: dict[str, Any] = {"d_in": parts.lm.d_in, "d_sae": arguments.d_sae, "device": arguments.device}
    saes = {f"k{k}": MatryoshkaBatchTopKTrainingSAEConfig(**shape, k=k, matryoshka_widths=widths) for k in KS}
    config = MultiSAETrainingRunnerConfig(
        saes=saes,
        hook_names=arguments.hook_name,
        model_name=str(arguments.lm),
        model_class_name="TransformerBridge",
        dataset_path="random",
        streaming=False,
        context_size=arguments.context_length,
        training_tokens=arguments.steps * arguments.batch,
        train_batch_size_tokens=arguments.batch,
        store_batch_size_prompts=arguments.lm_batch,
        n_batches_in_buffer=-(-arguments.batch // arguments.context_length),  # the least that it takes
        activations_mixing_fraction=0.0,
        lr=LEARNING_RATE,
        device=arguments.device,
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=None,
    )
    dataset = Dataset.from_dict({"input_ids": tokens_NT.tolist()})
    parts.lm.bridge.tokenizer = parts.lm.tokenizer
    runner = MultiSAETrainingRunner(config, override_dataset=dataset, override_model=parts.lm.bridge)
    taken: list[float] = []
    MultiSAETrainer.fit = timed(MultiSAETrainer.fit, taken)  # type: ignore[method-assign]
    runner.run()
    return taken[0]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'':18}{'s per batch':>12}{'per SAE':>10}{'tokens/s':>10}{'peak MiB':>10}"]
    for row in rows:
        size = int(row["name"].rpartition("-")[2])
        lines.append(
            f"{row['name']:18}{row['seconds']:12.3f}{row['seconds'] / size:10.3f}"
            f"{row['tokens_per_second']:10,.0f}{row['peak_bytes'] >> 20:10}"
        )
    return "\n".join(lines)


def plot(source: Path, target: Path) -> None:
    import matplotlib.pyplot as plt

    rows = [row for row in json.loads(source.read_text())["rows"] if row["name"] in PACKS]
    sizes = [PACKS[row["name"]] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(sizes, [row["seconds"] / size for row, size in zip(rows, sizes, strict=True)], "ko-")
    left.set(xlabel="SAEs in the pack", ylabel="seconds per batch and SAE", ylim=(0, None))
    right.plot(sizes, [row["peak_bytes"] / 2**30 for row in rows], "ks-")
    right.set(xlabel="SAEs in the pack", ylabel="peak memory (GiB)", ylim=(0, None))
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-sae", type=int, default=16384)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--window-batches", type=int, default=8)
    parser.add_argument("--lm-batch", type=int, default=16, help="sequences per forward")
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    names = [*PACKS, SAELENS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draws what --json has, and measures nothing")
    parser.add_argument("--variant", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plot:
        plot(arguments.json, arguments.plot)
        return
    torch.set_num_threads(arguments.threads)
    if arguments.variant:
        arguments.lm, arguments.text = arguments.folder / "lm", arguments.folder / "text.jsonl"
        arguments.lm_dtype, arguments.hook_name, arguments.k = "float32", "blocks.8.hook_resid_post", KS[0]
        size = PACKS.get(arguments.variant)
        seconds = measure_saelens(arguments) if size is None else measure_pack(arguments, size)
        print(json.dumps({"seconds": seconds / arguments.steps, "peak_bytes": memory("VmHWM")}))
        return
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pythia_shaped(folder / "lm")
        make_text(folder / "text.jsonl", 2 * arguments.steps * arguments.batch + 50_000)
        about = machine(arguments.device)
        for _ in range(arguments.repeats):
            for variant, runs in taken.items():
                runs.append(in_own_process(__file__, variant, folder))
    rows = medians(taken, arguments.batch)
    if arguments.json:
        hidden = ("json", "variant", "folder", "plot")
        named = {key: value for key, value in vars(arguments).items() if key not in hidden}
        arguments.json.write_text(json.dumps({"machine": about, "sizes": named, "rows": rows}, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
