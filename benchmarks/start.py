"""What checking costs at a start, on the demo's sizes: each check the first time, and with digests remembered.

    python benchmarks/start.py

Needs a run of the demo that is done: `python -m src.train +sweep=mask_rate -m` in this checkout, or `--runs FOLDER`.
Then naming the members of a sweep, by how many there are. Medians; nothing is trained.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import hydra
import torch

from masked_sae.activations.lm import load_lm
from masked_sae.activations.lm_weights import refuse_non_finite_weights
from masked_sae.config import RunConfig, typed_config
from masked_sae.lm_files import lm_digest
from masked_sae.runs.checkpoint import load_checkpoint
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import find_inputs, make_run
from masked_sae.text.corpus import token_store
from masked_sae.text.tokenizer import special_tokens
from masked_sae.training.done import find_lacking

ROOT = Path(__file__).resolve().parents[1]


def seconds(action: Callable[[], object], repeats: int, before: Callable[[], object] = lambda: None) -> float:
    taken: list[float] = []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def checks(folder: RunFolder, repeats: int) -> None:
    config = typed_config(read_config(folder.config))
    with tempfile.TemporaryDirectory() as made:
        memory = Path(made) / "digests"
        config.trainer.progress = False
        inputs = find_inputs(config)
        separator = special_tokens(inputs.tokenizer).separator
        lm = load_lm(config.lm.name, config.lm.hook_name)

        def forget() -> None:
            shutil.rmtree(memory, ignore_errors=True)

        def store() -> None:
            token_store(inputs.corpus, config.data, inputs.tokenizer, separator, progress=False, memory=memory)

        def remembered(config: RunConfig) -> None:
            find_lacking(folder, config)

        store()
        rows = {
            "digest of the LM": lambda: lm_digest(config.lm.name, None, memory),
            "token store": store,
            "a run that is done": lambda: remembered(config),
        }
        for name, action in rows.items():
            first = seconds(action, repeats, forget)
            print(f"{name:28} first {1e3 * first:8.1f} ms   remembered {1e3 * seconds(action, repeats):8.1f} ms")
        finite = seconds(lambda: refuse_non_finite_weights(config.lm.name, lm.bridge.original_model), repeats)
        print(f"{'finite weights of the LM':28} always {1e3 * finite:7.1f} ms")
        checkpoint = seconds(lambda: load_checkpoint(folder.checkpoints), repeats)
        print(f"{'reading a checkpoint':28} always {1e3 * checkpoint:7.1f} ms")


def naming(members: int) -> None:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base=None):
        configs = [typed_config(hydra.compose("train", [f"seed={seed}"])) for seed in range(3)]
    start = time.perf_counter()
    for place in range(members):
        make_run(configs[place % 3], {"seed": str(place)})
    print(f"naming {members} members: {time.perf_counter() - start:.2f} s, their settings composed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "mask_rate")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(2)
    folder = next((path.parent for path in sorted(arguments.runs.glob("*/results.json"))), None)
    if folder is None:
        parser.error(f"{arguments.runs}: expected a sweep with a run that is done")
    with suppress(KeyboardInterrupt):
        checks(RunFolder(folder), arguments.repeats)
        naming(200)


if __name__ == "__main__":
    main()
