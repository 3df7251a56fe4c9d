"""A run has the threads that it was begun with, whatever the machine, SLURM or a later command has; and while it trains
its own precision of matrix products.
"""

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from masked_sae.activations.lm import LM
from masked_sae.activations.stream import Batch
from masked_sae.config import RunConfig
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.config_file import read_config
from masked_sae.runs.run import Run, make_run
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.threads import DEFAULT_THREADS, matmul_precision, threads_of, use_threads
from masked_sae.training.train_run import train_run
from support.composing import small_config


@pytest.fixture
def config(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    return small_config(neox_folder, corpus_folder, tmp_path, "trainer.threads=null", "eval.families=[]")


def begun(config: RunConfig, threads: int | None) -> Run:
    run = make_run(replace(config, trainer=replace(config.trainer, threads=threads)), {})
    train_run(run)
    return run


def unfinished(run: Run) -> None:
    """As a kill leaves it."""
    state = json.loads(run.folder.state.read_text())
    run.folder.state.write_text(json.dumps(state | {"status": "running"}))


def test_a_new_run_has_the_default_and_neither_the_machines_nor_slurms(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    run = begun(config, None)
    assert torch.get_num_threads() == DEFAULT_THREADS == threads_of(run.folder)
    assert read_config(run.folder.config).trainer.threads == DEFAULT_THREADS
    assert [attempt.threads for attempt in read_attempts(run.folder.attempts)] == [DEFAULT_THREADS]


def test_a_later_attempt_has_those_it_was_begun_with(config: RunConfig) -> None:
    run = begun(config, 1)
    torch.set_num_threads(2)
    unfinished(run)
    again = begun(config, None)
    assert again.folder == run.folder and torch.get_num_threads() == 1
    assert read_config(run.folder.config).trainer.threads == 1


def test_others_are_used_where_asked_for_and_told_of_and_the_runs_own_stay_on_record(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(config, 1)
    unfinished(run)
    capsys.readouterr()
    begun(config, 2)
    assert torch.get_num_threads() == 2 and threads_of(run.folder) == 1
    assert f"trainer.threads=2: {run.folder.run_id} was begun with 1" in capsys.readouterr().err


def test_of_a_run_from_before_they_were_on_record_the_first_attempt_tells(config: RunConfig) -> None:
    run = begun(config, 1)
    text = run.folder.config.read_text()
    run.folder.config.write_text("".join(text.splitlines(keepends=True)[1:]).replace("threads: 1", "threads: null"))
    assert threads_of(run.folder) == 1


def test_a_run_that_starts_over_has_no_threads_of_its_own_yet(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(config, 1)
    assert use_threads(None, 2) == 2 and capsys.readouterr().err == ""
    forced = make_run(replace(config, force=True, trainer=replace(config.trainer, threads=2)), {})
    train_run(forced)
    assert threads_of(run.folder) == 2


def test_a_precision_is_given_back_whatever_happens() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ValueError, match="no reason"), matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        raise ValueError("no reason")
    assert torch.get_float32_matmul_precision() == before == "highest"


def test_a_run_is_trained_with_its_own_and_measured_with_that_of_all(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    forwards: list[str] = []
    learn, activations = SAETraining.learn, LM.activations_at

    def noted_step(self: SAETraining, batch: Batch) -> None:
        steps.append(torch.get_float32_matmul_precision())
        learn(self, batch)

    def noted_forward(*args: Any, **options: Any) -> Any:
        forwards.append(torch.get_float32_matmul_precision())
        return activations(*args, **options)

    monkeypatch.setattr(SAETraining, "learn", noted_step)
    monkeypatch.setattr(LM, "activations_at", noted_forward)
    run = make_run(replace(config, trainer=replace(config.trainer, matmul_precision="high")), {})
    assert train_run(run).status == "done"
    assert set(steps) == {"high"} and len(steps) == 24
    assert [precision for precision, _ in groupby(forwards)] == ["highest", "high", "highest"]  # the first try it out
    assert torch.get_float32_matmul_precision() == "highest"
    assert read_config(run.folder.config).trainer.matmul_precision == "high"


def test_runs_of_unlike_precision_share_no_forwards_and_no_name(config: RunConfig) -> None:
    other = make_run(replace(config, trainer=replace(config.trainer, matmul_precision="high")), {})
    run = make_run(config, {})
    assert other.folder != run.folder and other.shares is not None and run.shares is not None
    for shared in ("forwards", "batches", "lm_output"):
        assert getattr(other.shares, shared) != getattr(run.shares, shared)
