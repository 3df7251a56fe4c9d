"""Runs made before ids had whole files in them: found, and taken over only where they are what they would be today."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from masked_sae.config import RunConfig
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.former import former_id, take_over_former, text_digest
from masked_sae.runs.run import Run, find_inputs, make_run
from masked_sae.runs.state import read_state
from masked_sae.runs.sweep_record import read_members, record_members
from masked_sae.tracking.run_tracker import begin_tracking
from masked_sae.training.train_run import train_run
from support.composing import small_config
from support.ids import NAMED, Named
from support.making import ROOT, compose


@pytest.mark.parametrize("named", NAMED, ids=lambda named: named.former)
def test_former_ids_are_still_known(named: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the embedded LM counts by its content
    assert former_id(compose(named.overrides), named.values, "digest of the text") == named.former


@pytest.fixture
def config(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    corpus = shutil.copytree(corpus_folder, tmp_path / "corpus")
    lm = shutil.copytree(neox_folder, tmp_path / "lm")
    return small_config(lm, corpus, tmp_path, "logger.wandb.mode=offline")


def as_it_was(run: Run) -> RunFolder:
    """The folder of a run that is done, as it was then: under its former id, without what is new in its files."""
    folder = run.folder
    content = text_digest(run.config, find_inputs(run.config))
    former = folder.path.parent / former_id(run.config, run.swept, content)
    folder.path.rename(former)
    then = RunFolder(former)
    then.config.write_text("".join(then.config.read_text().splitlines(keepends=True)[1:]))
    state: dict[str, Any] = json.loads(then.state.read_text())
    del state["former_id"]
    then.state.write_text(json.dumps(state | {"run_id": former.name}))
    return then


@pytest.fixture
def done(config: RunConfig) -> Run:
    run = make_run(config, {})
    assert train_run(run).status == "done"
    return run


def test_a_run_that_is_done_is_found_under_its_former_id_and_not_trained_again(
    done: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done.sae / "sae_weights.safetensors").read_bytes()
    former = as_it_was(done)
    record_members(former.path.parent, [replace(done, folder=former)])
    take_over_former([done])
    assert not former.path.exists() and (done.sae / "sae_weights.safetensors").read_bytes() == before
    assert f"{former.path} is now {done.folder.run_id}" in capsys.readouterr().err
    state = read_state(done.folder.state)
    assert state is not None and (state.status, state.run_id, state.former_id) == (
        "done", done.folder.run_id, former.run_id,
    )  # fmt: skip
    assert [member.folder.run_id for member in read_members(former.path.parent)] == [done.folder.run_id]
    assert json.loads(done.folder.results.read_text())["run_id"] == done.folder.run_id
    written = {path: path.stat().st_mtime_ns for path in done.folder.path.rglob("*")}
    assert train_run(done).status == "done"
    assert {path: path.stat().st_mtime_ns for path in done.folder.path.rglob("*")} == written
    take_over_former([done])  # nothing is left to take over
    assert capsys.readouterr().err == ""


def test_it_keeps_its_wandb_run(done: Run) -> None:
    former = as_it_was(done)
    take_over_former([done])
    tracker = begin_tracking(done, 0, resumes=False)
    assert tracker is not None
    tracker.finish(failed=False)
    assert len(list((done.folder.path / "wandb").glob(f"offline-run-*-train-{former.run_id}"))) == 1


def not_taken_over(run: Run, former: RunFolder) -> bool:
    take_over_former([run])
    return former.path.exists() and not run.folder.path.exists()


def test_a_run_of_another_setting_is_not_taken_over(done: Run) -> None:
    former = as_it_was(done)
    assert not_taken_over(make_run(replace(done.config, seed=1), {}), former)


def test_other_text_or_weights_than_then_are_not_taken_over(done: Run) -> None:
    former = as_it_was(done)
    (Path(done.config.data.path[0]) / "more.txt").write_text("other words\n")
    assert not_taken_over(make_run(done.config, {}), former)


def test_text_that_spells_a_special_token_is_not_taken_over(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(config.data.path[0]) / "more.txt").write_text("a text<|endoftext|>another\n")
    run = make_run(config, {})
    assert train_run(run).status == "done"
    assert not_taken_over(run, as_it_was(run))
    assert "its text spells special tokens" in capsys.readouterr().err


def test_a_configuration_that_cannot_be_read_is_not_taken_over(done: Run, capsys: pytest.CaptureFixture[str]) -> None:
    former = as_it_was(done)
    OmegaConf.save(OmegaConf.create({"lm": {"name": "x"}}), former.config)
    assert not_taken_over(done, former)
    assert "config.yaml cannot be used" in capsys.readouterr().err
