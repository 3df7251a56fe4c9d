"""What is measured on held-out text while a run trains."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.sequences import make_sequences
from masked_sae.config import RunConfig
from masked_sae.errors import NonFiniteError
from masked_sae.runs.curve import VALIDATED, Histogram, Metrics
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import make_run
from masked_sae.saes import SAE, TopKSAE
from masked_sae.training.train_run import train_run
from masked_sae.training.validation import Validation
from support.composing import small_config
from support.counting import forwards_of
from support.making import HOOK


@pytest.fixture(scope="module")
def config(neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    overrides = ["sae=topk", "eval.families=[core]", "trainer.validate_every_steps=7", "trainer.validation_tokens=512"]
    return small_config(neox_folder, corpus_folder, tmp_path_factory.mktemp("validated"), *overrides)


@pytest.fixture(scope="module")
def folder(config: RunConfig) -> RunFolder:
    assert train_run(make_run(config, {})).status == "done"
    return make_run(config, {}).folder


def alone(validation: Validation, sae: SAE) -> tuple[Metrics, Mapping[str, Histogram]]:
    (found,) = validation.measure_all([sae])
    if isinstance(found, NonFiniteError):
        raise found
    return found


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
        assert float(last[f"val/{name}"]) == pytest.approx(measured[f"core/{name}"], abs=1e-4)


def test_without_an_interval_nothing_is_measured(config: RunConfig, tmp_path: Path) -> None:
    trainer = replace(config.trainer, validate_every_steps=None)
    silent = replace(config, trainer=trainer, output_dir=str(tmp_path))
    train_run(make_run(silent, {}))
    folder = make_run(silent, {}).folder
    assert not folder.histograms.exists() and "val/l0" not in rows(folder)[24]


def sae_for(lm: LM, k: int = 4) -> TopKSAE:
    return TopKSAE(lm.d_in, 64, k, generator=torch.Generator().manual_seed(0), aux_k=8)


def validation_on(lm: LM) -> Validation:
    tokens = torch.randint(5, 50, (320,), generator=torch.Generator().manual_seed(0)).numpy()
    return Validation(lm, make_sequences(tokens, 16, lm.special), 1.0, every=1, tokens=64, batch_size=3)


@pytest.mark.parametrize("model", ["neox", "bert"])
def test_it_is_the_same_at_every_step_and_has_ce_recovered(model: str, request: pytest.FixtureRequest) -> None:
    lm: LM = request.getfixturevalue(model)
    validation, sae = validation_on(lm), sae_for(lm)
    first, histograms = alone(validation, sae)
    assert list(first) == list(VALIDATED) and first["val/l0"] == pytest.approx(4)
    assert alone(validation, sae) == (first, histograms)  # the zero ablation is known by then


def test_an_lm_without_an_output_layer_has_no_ce_recovered(bert_base_folder: Path) -> None:
    lm = load_lm(str(bert_base_folder), HOOK)
    measured, _ = alone(validation_on(lm), sae_for(lm))
    assert list(measured) == ["val/l0", "val/explained_variance"]


def test_weights_that_are_not_finite_are_refused_in_one_line(neox: LM) -> None:
    sae = sae_for(neox)
    with torch.no_grad():
        sae.W_dec_FD[3, 2] = torch.nan
    with pytest.raises(NonFiniteError, match="weight of the SAE is NaN or infinite; expected finite"):
        alone(validation_on(neox), sae)


@pytest.mark.parametrize("model", ["neox", "bert"])
def test_several_are_measured_from_one_reading_as_each_is_alone(model: str, request: pytest.FixtureRequest) -> None:
    lm: LM = request.getfixturevalue(model)
    saes = [sae_for(lm, k) for k in (2, 4, 6)]
    with torch.no_grad():
        saes[1].W_dec_FD[3, 2] = torch.nan
    (first,) = validation_on(lm).measure_all(saes[:1])
    with forwards_of(lm) as alone:
        (last,) = validation_on(lm).measure_all(saes[2:])
    with forwards_of(lm) as together:
        found = validation_on(lm).measure_all(saes)
    assert found[::2] == [first, last] and first != last
    assert isinstance(found[1], NonFiniteError)
    assert len(together) == len(alone) + 2  # batches, from the hook point on for one more SAE


def test_latents_that_never_fire_are_in_no_histogram_of_frequencies(neox: LM) -> None:
    sae = sae_for(neox)
    with torch.no_grad():
        sae.b_enc_F.fill_(-1e9)
    measured, histograms = alone(validation_on(neox), sae)
    assert measured["val/l0"] == 0
    assert sum(histograms["val/log10_latent_frequency"]["counts"]) == 0
    assert sum(histograms["val/max_decoder_cosine"]["counts"]) == 64
