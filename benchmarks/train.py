"""Times training end to end: LM, stream and SAE, ours and SAELens' runner, on the same LM, tokens and sizes.

    python benchmarks/train.py --threads 2 --json train.json
    python benchmarks/train.py --lm assets/tiny_lm --hook-name blocks.2.hook_resid_post --d-sae 2048 --k 16 --batch 1024

Without `--lm` the LM has the shape of Pythia-160M (12 layers, 768 dimensions) and random weights. The variants take
turns, each run in a process of its own; the table holds medians.

    lm-forward          the LM up to the hook point, and nothing else
    ours-step           SAE steps on activations at hand, and nothing else
    ours-matryoshka     `python -m src.train` with masking off, from its first step to its last
    ours-masked         the same with a tenth of the tokens masked
    saelens-matryoshka  SAELens' runner, from its first step to its last, in its fastest setting: no buffer to mix
                        activations in, no checkpoints, no evaluation

Peers: `pip install -e '.[peers]'`.
"""

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it before its first allocation

import torch
from step import GROUP_FRACTIONS, LEARNING_RATE, Sizes, machine, memory, ours, synchronize

ROOT = Path(__file__).resolve().parents[1]
WORDS = 2000


def make_pythia_shaped(folder: Path) -> None:
    """A GPT-NeoX checkpoint of Pythia-160M's shape with random weights, one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    shape |= {"intermediate_size": 3072, "vocab_size": 50304, "max_position_embeddings": 2048, "rotary_pct": 0.25}
    GPTNeoXForCausalLM(GPTNeoXConfig(**shape, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    vocabulary = {"<|endoftext|>": 0} | {f"w{i}": i + 1 for i in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(folder)


def make_text(path: Path, tokens: int) -> None:
    rng = random.Random(0)
    documents = [" ".join(f"w{rng.randrange(WORDS)}" for _ in range(1000)) for _ in range(tokens // 1000 + 1)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def run_config(arguments: argparse.Namespace, *overrides: str) -> Any:
    """The configuration that `python -m src.train` would compose."""
    from hydra import compose, initialize_config_dir

    from masked_sae.config import typed_config

    folder = arguments.folder
    settings = [
        f"lm.name={arguments.lm}",
        f"lm.hook_name={arguments.hook_name}",
        f"lm.dtype={arguments.lm_dtype}",
        f"lm.batch_size={arguments.lm_batch}",
        f"data.context_length={arguments.context_length}",
        f"data.batch_size={arguments.batch}",
        f"data.train_tokens={arguments.steps * arguments.batch}",
        f"data.window_tokens={arguments.window_batches * arguments.batch}",
        f"data.scale_tokens={arguments.lm_batch * arguments.context_length}",
        "data.max_epochs=100",
        f"data.store_dir={folder / 'tokens'}",
        f"sae.d_sae={arguments.d_sae}",
        f"sae.k={arguments.k}",
        f"optim.lr={LEARNING_RATE}",
        f"trainer.device={arguments.device}",
        f"trainer.threads={arguments.threads}",
        "trainer.progress=false",
        "trainer.checkpoint_every_steps=1_000_000",
        "trainer.validate_every_steps=null",
        "logger.wandb.mode=disabled",
        "eval=none",
        "sae.calibration_tokens=128",
        f"output_dir={folder / 'runs'}",
        "force=true",
    ]
    if arguments.text is not None:
        settings += ["data=text", f"data.path={arguments.text}", "data.validation_share=0.1"]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return typed_config(compose("train", [*settings, *overrides]))


def measure_ours(arguments: argparse.Namespace, *overrides: str) -> float:
    from masked_sae.runs.run import make_run
    from masked_sae.training.train_run import train_run

    run = make_run(run_config(arguments, *overrides), {})
    train_run(run)
    # Until the last step's metrics: the checkpoint after it would count for much in so short a run.
    with run.folder.metrics.open() as curve:
        return float(list(csv.DictReader(curve))[-1]["seconds"])


def assembled(arguments: argparse.Namespace) -> Any:
    from masked_sae.runs.run import make_run
    from masked_sae.training.assemble import load_parts

    return load_parts(make_run(run_config(arguments, "mask=none"), {}), torch.device(arguments.device))


def measure_lm(arguments: argparse.Namespace) -> float:
    """Forwards over as many tokens as training reads."""
    import numpy as np

    parts = assembled(arguments)
    sequences = parts.sequences.sequences
    per_forward = sequences.content_length * arguments.lm_batch
    forwards = arguments.steps * arguments.batch / per_forward
    tokens_NT, _ = sequences.read(np.arange(arguments.lm_batch) % len(sequences))
    parts.lm.activations(tokens_NT)
    synchronize(sizes(arguments))
    start = time.perf_counter()
    for _ in range(round(forwards)):
        parts.lm.activations(tokens_NT)
    synchronize(sizes(arguments))
    return (time.perf_counter() - start) * forwards / round(forwards)


def measure_step(arguments: argparse.Namespace) -> float:
    step = ours(sizes(arguments), "matryoshka")
    step()
    synchronize(sizes(arguments))
    start = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    synchronize(sizes(arguments))
    return time.perf_counter() - start


def measure_saelens(arguments: argparse.Namespace) -> float:
    import numpy as np
    from datasets import Dataset
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig
    from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    parts = assembled(arguments)
    sequences = parts.sequences.sequences
    needed = arguments.steps * arguments.batch // arguments.context_length + 4 * arguments.lm_batch
    tokens_NT, _ = sequences.read(np.arange(needed) % len(sequences))
    widths = [round(arguments.d_sae * sum(GROUP_FRACTIONS[: i + 1])) for i in range(len(GROUP_FRACTIONS))]
    sae = MatryoshkaBatchTopKTrainingSAEConfig(
        d_in=parts.lm.d_in, d_sae=arguments.d_sae, k=arguments.k, matryoshka_widths=widths, device=arguments.device
    )
    config = LanguageModelSAERunnerConfig(
        sae=sae,
        model_name=str(arguments.lm),
        model_class_name="TransformerBridge",
        hook_name=arguments.hook_name,
        dataset_path="random",
        streaming=False,
        is_dataset_tokenized=True,
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
        verbose=False,
    )
    dataset = Dataset.from_dict({"input_ids": tokens_NT.tolist()})
    parts.lm.bridge.tokenizer = parts.lm.tokenizer
    runner = LanguageModelSAETrainingRunner(config, override_dataset=dataset, override_model=parts.lm.bridge)
    taken: list[float] = []
    fit = SAETrainer.fit

    def timed(trainer: Any) -> Any:
        start = time.perf_counter()
        result = fit(trainer)
        synchronize(sizes(arguments))
        taken.append(time.perf_counter() - start)
        return result

    SAETrainer.fit = timed  # type: ignore[method-assign]
    runner.run()
    return taken[0]


VARIANTS: dict[str, Callable[[argparse.Namespace], float]] = {
    "lm-forward": measure_lm,
    "ours-step": measure_step,
    "ours-matryoshka": lambda arguments: measure_ours(arguments, "mask=none"),
    "ours-masked": lambda arguments: measure_ours(arguments, "mask=token", "mask.token.rate=0.1"),
    "saelens-matryoshka": measure_saelens,
}


def sizes(arguments: argparse.Namespace) -> Sizes:
    return Sizes(arguments.d_in, arguments.d_sae, arguments.k, arguments.batch, arguments.device)


def in_own_process(script: str, name: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, script, *sys.argv[1:], "--variant", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def medians(taken: dict[str, list[dict[str, float]]], batch: int) -> list[dict[str, Any]]:
    """A row for each variant, of its runs."""
    rows: list[dict[str, Any]] = []
    for variant, runs in taken.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        peak = int(statistics.median(run["peak_bytes"] for run in runs))
        rows.append({"name": variant, "seconds": seconds, "tokens_per_second": batch / seconds})
        rows[-1] |= {"peak_bytes": peak, "run_seconds": [run["seconds"] for run in runs]}
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'':22}{'s per batch':>12}{'tokens/s':>10}{'peak MiB':>10}"]
    lines += [
        f"{row['name']:22}{row['seconds']:12.4f}{row['tokens_per_second']:10,.0f}{row['peak_bytes'] >> 20:10}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", type=Path, help="a checkpoint's folder; its text is then the standard library")
    parser.add_argument("--hook-name", default="blocks.8.hook_resid_post")
    parser.add_argument("--lm-dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--lm-batch", type=int, default=16, help="sequences per forward")
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--d-sae", type=int, default=16384)
    parser.add_argument("--k", type=int, default=40)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--window-batches", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.variant:
        arguments.text = None
        if arguments.lm is None:
            arguments.lm, arguments.text = arguments.folder / "lm", arguments.folder / "text.jsonl"
        arguments.d_in = json.loads((arguments.lm / "config.json").read_text())["hidden_size"]
        seconds = VARIANTS[arguments.variant](arguments)
        print(json.dumps({"seconds": seconds / arguments.steps, "peak_bytes": memory("VmHWM")}))
        return
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.lm is None:
            make_pythia_shaped(folder / "lm")
            make_text(folder / "text.jsonl", 2 * arguments.steps * arguments.batch + 50_000)
        about = machine(arguments.device)
        for _ in range(arguments.repeats):
            for variant, runs in taken.items():
                runs.append(in_own_process(__file__, variant, folder))
    rows = medians(taken, arguments.batch)
    if arguments.json:
        named = {key: value for key, value in vars(arguments).items() if key not in ("json", "variant", "folder")}
        text = {"machine": about, "sizes": named, "rows": rows}
        arguments.json.write_text(json.dumps(text, indent=2, default=str) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
