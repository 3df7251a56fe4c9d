"""Runs whose SAE several processes have parts of: as by one, with checkpoints that say nothing of it."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from masked_sae.errors import InputError
from masked_sae.runs.curve import VALIDATED, read_metrics
from masked_sae.runs.run import Run, make_run
from masked_sae.training.train_pack import train_pack
from support.composing import ROOT, small_config
from support.in_parts import at_step, distance, trained

Make = Callable[..., Run]
IN_PARTS = ["trainer.devices=2", "trainer.shard_latents=true"]
MEMBERS = [
    ["mask.latent.rate=0.2", "trainer.validate_every_steps=4"],
    ["sae=topk", "mask.input.rate=0.2"],
    ["sae=gated"],
    ["sae=jumprelu"],
    ["sae=balanced_matryoshka", "optim.gradient_clip=0.1"],
]


@pytest.fixture
def make(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Make:
    def made(*overrides: str, out: str = "parts") -> Run:
        fixed = ["data.seed=0", "eval.families=[core]", "mask.token.rate=0.1"]
        config = small_config(neox_folder, corpus_folder, tmp_path / out, *fixed, *overrides)
        return make_run(replace(config, output_dir=str(tmp_path / out)), {})

    return made


@pytest.mark.slow
def test_a_pack_in_parts_is_that_of_one_process(make: Make) -> None:
    runs = [make(*overrides, *IN_PARTS) for overrides in MEMBERS]
    alone = [make(*overrides, out="alone") for overrides in MEMBERS]
    of_another_seed = make(*MEMBERS[0], "seed=1", out="alone")
    assert [run.folder.run_id for run in runs] == [run.folder.run_id for run in alone]
    trained(runs)
    trained([*alone, of_another_seed])
    for ours, theirs in zip(runs, alone, strict=True):
        assert distance(ours, theirs) < 0.01 * distance(of_another_seed, alone[0]), ours.folder.run_id
        for row, other in zip(read_metrics(ours.folder.metrics), read_metrics(theirs.folder.metrics), strict=True):
            assert row.keys() == other.keys()
            for name in {"loss", "l0", "dead_latents", "explained_variance", "threshold", *VALIDATED} & row.keys():
                assert row[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), (name, row["step"])


@pytest.mark.slow
def test_a_run_goes_on_in_parts_or_in_one_process(make: Make) -> None:
    run, alone = make("sae=gated", *IN_PARTS), make("sae=gated", out="alone")
    for how, step in ((IN_PARTS, 4), ([], 7), (IN_PARTS, 9)):
        with at_step(step, lambda: signal.raise_signal(signal.SIGTERM)):
            (outcome,) = train_pack([make("sae=gated", *how)])
        assert outcome.state is not None and outcome.state.status == "preempted" and outcome.state.step == step
    trained([run])
    trained([alone])
    assert distance(run, alone) < 1e-3


@pytest.mark.slow
def test_the_command_trains_on_the_embedded_lm_in_parts(tmp_path: Path) -> None:
    def train(out: str, *overrides: str) -> Path:
        settings = [
            f"output_dir={tmp_path / out}", "data.train_tokens=8192", "data.window_tokens=4096", "sae.d_sae=512",
            "data.batch_size=512", "data.scale_tokens=2048", "eval.families=[core]", "eval.tokens=2048", "sae.k=16",
            "sae.calibration_tokens=2048", "trainer.progress=false",
        ]  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "src.train", *settings, *overrides],
            check=True, capture_output=True, timeout=300, cwd=ROOT,
        )  # fmt: skip
        (found,) = (tmp_path / out).glob("**/sae_weights.safetensors")
        return found

    ours, theirs = train("parts", *IN_PARTS), train("alone")
    assert ours.relative_to(tmp_path / "parts") == theirs.relative_to(tmp_path / "alone")
    assert distance(ours, theirs) < 1e-3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.devices=1"], r"trainer.shard_latents=True: expected false, or more than one process"),
        (["trainer.devices=3", "data.batch_size=63"], r"sae.d_sae=\d+: expected a multiple of 3"),
        (["sae.orthogonality=0.1"], r"sae.orthogonality=0.1: expected 0 with trainer.shard_latents=true"),
        (["optim=adafactor"], r"optim.name=adafactor: expected adam beside trainer.shard_latents=true"),
        (["sae.reference=true"], r"sae.reference=True: expected false with trainer.shard_latents=true"),
    ],
)
def test_what_cannot_be_divided_is_refused(make: Make, overrides: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(*IN_PARTS, *overrides)
