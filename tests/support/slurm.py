"""Sweeps by command, here or on SLURM, and whether two are the same."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from masked_sae.runs.state import RunState, read_state
from support.composing import small_overrides
from support.extending import outside
from support.making import ROOT

TRAIN = [sys.executable, "-m", "src.train"]
ON_SLURM = ["hydra.launcher.partition=normal", "hydra.launcher.cpus_per_task=1"]

# Long enough to be interrupted in the middle.
LONG = [
    "data.batch_size=256", "data.train_tokens=300_000", "data.window_tokens=8192", "data.max_epochs=100000",
    "sae.d_sae=1024", "trainer.checkpoint_every_steps=100", "trainer.log_every_steps=100",
    "trainer.validate_every_steps=100", "mask.token.rate=0.1",
]  # fmt: skip
PACKED = [*LONG, "data.train_tokens=60_000", "trainer.checkpoint_every_steps=20", "sae.d_sae=256", "sae.k=4,8,16"]


class Sweep:
    """The sweep command over mask rates, in a folder of its own."""

    def __init__(
        self,
        lm: Path,
        corpus: Path,
        out: Path,
        environment: dict[str, str] | None,
        *extra: str,
        without_k: bool = False,
        cwd: Path = ROOT,
    ) -> None:
        self.folder = out / "runs" / "mask_rate"
        self.environment = None if environment is None else environment | outside()
        self._cwd = cwd
        launcher = [] if environment is None else ON_SLURM
        small = small_overrides(lm, corpus, out)
        if without_k:
            small = [setting for setting in small if not setting.startswith(("sae.k=", "sae.aux_k="))]
        self._command = [*TRAIN, "+sweep=mask_rate", *small, *launcher, *extra, "-m"]

    def start(self, *more: str) -> "subprocess.Popen[str]":
        command = [*self._command[:-1], *more, "-m"]
        pipe = subprocess.PIPE
        environment = self.environment or os.environ | outside()
        return subprocess.Popen(command, cwd=self._cwd, env=environment, text=True, stdout=pipe, stderr=pipe)

    def run(self, *more: str) -> "subprocess.CompletedProcess[str]":
        return self.end(self.start(*more))

    def run_in_a_job(self) -> None:
        """Submits from within a job that has one CPU and less memory than the sweep's jobs ask for."""
        settings = ["--ntasks=1", "--cpus-per-task=1", "--mem=400M", "--partition=normal"]
        command = ["srun", *settings, *self._command[:-1], "hydra.launcher.mem_gb=1", "-m"]
        done = subprocess.run(command, cwd=self._cwd, env=self.environment, text=True, capture_output=True, timeout=200)
        assert done.returncode == 0, done.stderr

    def end(self, process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
        """Waits for the command; one that does not end is stopped, and what it had printed is in the error."""
        try:
            out, err = process.communicate(timeout=250)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"not ended: {process.communicate()}, {self.states()}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def states(self) -> dict[str, RunState]:
        states = [read_state(path) for path in sorted(self.folder.glob("*/state.json"))]
        return {state.run_id: state for state in states if state is not None}

    def wait_for(self, status: str, step: int) -> RunState:
        """Waits until the (only) run has this status, and a checkpoint at that step or later."""
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            for state in self.states().values():
                if state.status == status and state.step >= step:
                    return state
            time.sleep(0.2)
        raise AssertionError(f"no run was {status} at step {step}: {self.states()}")


def assert_same_runs(ours: Path, theirs: Path) -> None:
    names = sorted(path.parent.name for path in theirs.glob("*/results.json"))
    assert names and names == sorted(path.parent.name for path in ours.glob("*/results.json"))
    for name in names:
        weights, expected = (load_file(folder / name / "sae" / "sae_weights.safetensors") for folder in (ours, theirs))
        assert all(torch.equal(tensor, expected[key]) for key, tensor in weights.items())
        metrics, wanted = (json.loads((folder / name / "results.json").read_text()) for folder in (ours, theirs))
        assert metrics["metrics"] == wanted["metrics"]
