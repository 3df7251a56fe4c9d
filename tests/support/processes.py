"""Runs in processes of their own, killed at a step; and whether two runs are the same to the bit."""

import csv
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import torch
from safetensors.torch import load_file

from masked_sae.config import RunConfig
from masked_sae.runs.checkpoint import LAST
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import read_state
from masked_sae.sweeps.local import make_runs
from masked_sae.training.train_run import train_run

# Children are forked from a process that has imported everything and started no thread.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["masked_sae.training.train_run", "transformer_lens.model_bridge", "transformers"])

ON_THE_CLOCK = ("tokens_per_second", "lm_time_share", "peak_memory_gib", "seconds")


def curve(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics.open() as file:
        return [{k: v for k, v in row.items() if k not in ON_THE_CLOCK} for row in csv.DictReader(file)]


def assert_same_run(ours: RunFolder, theirs: RunFolder) -> None:
    """Bit-identical weights, optimizer state, training curve and results."""
    ours_last, theirs_last = load_file(ours.checkpoints / LAST), load_file(theirs.checkpoints / LAST)
    assert ours_last.keys() == theirs_last.keys()
    for name, tensor in ours_last.items():
        assert torch.equal(tensor, theirs_last[name]), name
    weights = load_file(ours.sae / "sae_weights.safetensors"), load_file(theirs.sae / "sae_weights.safetensors")
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert curve(ours) == curve(theirs)
    assert ours.histograms.read_text() == theirs.histograms.read_text()
    assert json.loads(ours.results.read_text())["metrics"] == json.loads(theirs.results.read_text())["metrics"]


def child(config: RunConfig) -> None:
    torch.set_num_threads(1)
    train_run(make_run(config, {}))


def killed_after(config: RunConfig, at_step: int, number: int = signal.SIGKILL, after: float = 0.0) -> int:
    """Trains in a process of its own that gets a signal some time after its state shows a step; the step it reached."""
    process = SERVER.Process(target=child, args=(config,))
    process.start()
    folder = make_run(config, {}).folder
    deadline = time.monotonic() + 200
    while process.is_alive() and time.monotonic() < deadline and reached(folder) < at_step:
        time.sleep(0.001)
    time.sleep(after)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, number)
    process.join(timeout=200)
    assert not process.is_alive()
    return reached(folder)


def reached(folder: RunFolder) -> int:
    state = read_state(folder.state)
    return 0 if state is None else state.step


def runs_at(config: RunConfig, *rates: float) -> list[Run]:
    """Runs at these learning rates."""
    configs = [replace(config, optim=replace(config.optim, lr=rate)) for rate in rates]
    return make_runs([(one, {"optim.lr": f"{one.optim.lr:g}"}) for one in configs])
