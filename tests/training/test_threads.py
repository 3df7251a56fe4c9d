"""A run has the threads that it was begun with, whatever the machine, SLURM or a later command has."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from masked_sae.config import RunConfig
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.config_file import read_config
from masked_sae.runs.run import Run, make_run
from masked_sae.training.threads import DEFAULT_THREADS, threads_of, use_threads
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
