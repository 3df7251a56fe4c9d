"""Runs that several processes train together: as by one, whatever befalls them."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from masked_sae.errors import InputError
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import read_state
from masked_sae.training.lead import FOLLOWER, followers
from masked_sae.training.train_pack import train_pack
from support.composing import small_config
from support.in_parts import at_step, distance, trained

Make = Callable[..., Run]
MEMBERS = [
    [],
    ["sae=topk", "mask.input.rate=0.2"],
    ["sae=gated", "mask.latent.rate=0.3"],
    ["sae=jumprelu"],
    ["sae=p_anneal", "sae.sparsity_warmup_steps=4"],
    ["sae=balanced_matryoshka", "optim.gradient_clip=0.1"],
]


@pytest.fixture
def make(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Make:
    def made(*overrides: str, devices: int = 2, out: str = "together") -> Run:
        fixed = ["data.seed=0", "eval.families=[core]", "mask.token.rate=0.1", f"trainer.devices={devices}"]
        config = small_config(neox_folder, corpus_folder, tmp_path / out, *fixed, *overrides)
        return make_run(replace(config, output_dir=str(tmp_path / out)), {})

    return made


def metric(run: Run, name: str) -> float:
    return float(json.loads(run.folder.results.read_text())["metrics"][f"core/{name}"])


def others() -> list[int]:
    """Processes that this one has started to train with it."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", FOLLOWER], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_a_pack_of_two_processes_is_that_of_one(make: Make) -> None:
    runs = [make(*overrides) for overrides in MEMBERS]
    alone = [make(*overrides, devices=1, out="alone") for overrides in MEMBERS]
    of_another_seed = make(*MEMBERS[0], "seed=1", devices=1, out="alone")
    assert [run.folder.run_id for run in runs] == [run.folder.run_id for run in alone]
    trained(runs)
    trained([*alone, of_another_seed])
    assert others() == []
    spread = abs(metric(of_another_seed, "explained_variance") - metric(alone[0], "explained_variance"))
    for ours, theirs in zip(runs, alone, strict=True):
        assert distance(ours, theirs) < 0.01 * distance(of_another_seed, alone[0]), ours.folder.run_id
        for name in ("explained_variance", "l0", "ce_recovered"):
            apart = abs(metric(ours, name) - metric(theirs, name))
            assert apart < max(1e-3, 0.1 * spread), (ours.folder.run_id, name)


@pytest.mark.slow
def test_a_run_goes_on_by_another_number_of_processes(make: Make) -> None:
    run, alone = make("sae=gated"), make("sae=gated", devices=1, out="alone")
    for devices, step in ((2, 4), (1, 7), (4, 9)):
        some = make("sae=gated", devices=devices)
        with at_step(step, lambda: signal.raise_signal(signal.SIGTERM)):
            (outcome,) = train_pack([some])
        assert outcome.state is not None and outcome.state.status == "preempted" and outcome.state.step == step
    trained([run])
    trained([alone])
    assert [one.ranks for one in read_attempts(run.folder.attempts)] == [2, 1, 4, 2]
    assert distance(run, alone) < 1e-3


@pytest.mark.slow
def test_one_that_is_killed_ends_all_and_the_run_goes_on(make: Make) -> None:
    run = make("trainer.checkpoint_every_steps=2")
    with at_step(5, lambda: [os.kill(pid, signal.SIGKILL) for pid in others()]):
        (outcome,) = train_pack([run])
    assert str(outcome.error) == "rank 1: its process was killed by SIGKILL, as by a kernel that is out of memory"
    state = read_state(run.folder.state)
    assert state is not None and state.status == "failed" and state.step >= 4
    trained([run])
    assert [one.step for one in read_attempts(run.folder.attempts)][1] >= 4


@pytest.mark.slow
def test_what_befalls_another_is_told(make: Make, tmp_path: Path) -> None:
    """It reads the LM that the first has read: here the weights have gone meanwhile."""
    from masked_sae.training import train_pack as module

    run, patch = make(), pytest.MonkeyPatch()
    told = module.Task.of

    def spoilt(members: Any) -> dict[str, Any]:
        task = told(members)
        task["runs"][0]["settings"]["lm"]["name"] = str(tmp_path / "nowhere")
        return task

    patch.setattr(module.Task, "of", staticmethod(spoilt))
    try:
        (outcome,) = train_pack([run])
    finally:
        patch.undo()
    assert str(outcome.error).startswith("rank 1: lm.name=") and "nowhere" in str(outcome.error)


def test_a_batch_that_cannot_be_divided_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match=r"data.batch_size=64: expected a multiple of 3, the processes that share it"):
        make("data.batch_size=64", devices=3)


def test_nodes_want_a_job() -> None:
    with (
        pytest.raises(InputError, match=r"trainer.nodes=2: expected 1 outside of a SLURM job"),
        followers(1, 2, "cpu"),
    ):
        pass


def test_a_job_has_as_many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"trainer.devices=2: expected 3 with"), followers(2, 1, "cpu"):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_more_gpus_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match=r"trainer.devices=2: expected at most 0, the GPUs"), followers(2, 1, "cuda"):
        pass
