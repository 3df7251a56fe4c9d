"""What is measured on held-out text while a run trains."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from composing import small_config

from masked_sae.config import RunConfig
from masked_sae.preparation import identify
from masked_sae.runs.folder import RunFolder
from masked_sae.training import train_run


@pytest.fixture(scope="module")
def config(neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    overrides = ["sae=topk", "eval.families=[core]", "trainer.validate_every_steps=7", "trainer.validation_tokens=512"]
    return small_config(neox_folder, corpus_folder, tmp_path_factory.mktemp("validated"), *overrides)


@pytest.fixture(scope="module")
def folder(config: RunConfig) -> RunFolder:
    assert train_run(config).status == "done"
    return identify(config, {}).folder


def rows(folder: RunFolder) -> dict[int, dict[str, str]]:
    with folder.metrics.open() as file:
        return {int(row["step"]): row for row in csv.DictReader(file)}


def test_it_comes_at_its_own_steps_and_the_last_beside_a_whole_row(folder: RunFolder) -> None:
    found = rows(folder)
    assert list(found) == sorted({*range(2, 25, 2), 7, 14, 21})
    assert [step for step, row in found.items() if row["val/ce_recovered"]] == [7, 14, 21, 24]
    assert all(row["loss"] for row in found.values())
    lines = [json.loads(line) for line in folder.histograms.read_text().splitlines()]
    assert [line["step"] for line in lines] == [7, 14, 21, 24]
    assert {sum(line["histograms"]["val/max_decoder_cosine"]["counts"]) for line in lines} == {64}


def test_the_last_is_what_the_evaluation_finds_on_as_much_text(config: RunConfig, folder: RunFolder) -> None:
    """A TopK SAE has no threshold that would be calibrated in between."""
    assert config.eval.tokens == config.trainer.validation_tokens
    measured = json.loads(folder.results.read_text())["metrics"]
    last = rows(folder)[24]
    for name in ("l0", "explained_variance", "ce_recovered"):
        assert float(last[f"val/{name}"]) == pytest.approx(measured[f"core/{name}"], abs=1e-6)


def test_none_is_asked_for(config: RunConfig, tmp_path: Path) -> None:
    trainer = replace(config.trainer, validate_every_steps=None)
    silent = replace(config, trainer=trainer, output_dir=str(tmp_path))
    train_run(silent)
    folder = identify(silent, {}).folder
    assert not folder.histograms.exists() and "val/l0" not in rows(folder)[24]
