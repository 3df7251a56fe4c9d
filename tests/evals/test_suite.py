"""All families on one LM: what is measured, what is shared, and what the SAE's numbering and units must not change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from masked_sae.activations.lm import load_lm
from masked_sae.activations.stream import make_layout
from masked_sae.config import FAMILIES
from masked_sae.evals.suite import Measured, Subject, Suite
from masked_sae.evals.texts.activations import ActivationCache
from masked_sae.report.catalogue import describe
from masked_sae.saes import InferenceSAE
from masked_sae.training.calibration import calibrated
from support.making import ROOT, compose

SMALL = [
    "eval=full",
    "eval.tokens=600",
    "eval.concepts=[token_class]",
    "eval.concept_tokens=3000",
    "eval.texts_per_class=12",
    "eval.text_tokens=16",
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The embedded LM on a module of the standard library."""
    config = compose(SMALL)
    lm = load_lm(str(ROOT / config.lm.name), config.lm.hook_name)
    text = Path(pytest.__file__).read_text() + Path(torch.__file__).read_text()
    tokens = torch.tensor(lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]).numpy()
    cache = ActivationCache(tmp_path_factory.mktemp("cache"), "embedded", batch_size=32)
    return Suite(lm, make_layout(tokens, 64, lm.special), cache, config.eval, config.lm.name)


@pytest.fixture(scope="module")
def ground_truth_suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The synthetic LM on random tokens."""
    config = compose(["lm=ground_truth", *SMALL])
    lm = load_lm(str(ROOT / config.lm.name), config.lm.hook_name)
    tokens = np.random.default_rng(0).integers(1, len(lm.tokenizer), 4000)
    cache = ActivationCache(tmp_path_factory.mktemp("cache"), "synthetic", batch_size=32)
    return Suite(lm, make_layout(tokens, 64, lm.special), cache, config.eval, str(ROOT / config.lm.name))


@pytest.fixture(scope="module")
def sae(suite: Suite) -> InferenceSAE:
    return random_sae(suite)


def random_sae(suite: Suite) -> InferenceSAE:
    """Random directions, about twenty of them active."""
    generator = torch.Generator().manual_seed(0)
    W_dec_FD = torch.nn.functional.normalize(torch.randn(256, suite.d_in, generator=generator), dim=1)
    zeros_D, zeros_F = torch.zeros(suite.d_in), torch.zeros(256)
    open_sae = InferenceSAE(W_dec_FD.T.contiguous(), zeros_F, W_dec_FD, zeros_D, zeros_D, threshold_F=zeros_F)
    return calibrated(open_sae, 20, suite._lm, suite._held_out, np.arange(8), batch_size=8)


def figures(measured: Measured) -> dict[str, float]:
    return {key: round(value, 4) for key, value in measured.metrics.items()}


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "ground_truth"])
def test_every_family_says_at_which_l0_it_measured(family: str, suite: Suite, sae: InferenceSAE) -> None:
    measured = suite.measure(family, Subject(sae))
    l0s = [value for key, value in measured.metrics.items() if key.split("/")[-1] == "l0"]
    assert len(l0s) == 1 and 1 < l0s[0] < 256
    assert all(value == value for value in measured.metrics.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_reports_describe_every_metric(family: str, suite: Suite, ground_truth_suite: Suite) -> None:
    measuring = ground_truth_suite if family == "ground_truth" else suite
    found = measuring.measure(family, Subject(random_sae(measuring))).metrics
    described = [describe(f"{family}/{key}") for key in found]
    assert [metric.key for metric in described if metric.label == metric.key or not metric.unit] == []
    assert len({metric.label for metric in described}) == len(found) > 4


@pytest.mark.parametrize("family", ["core", "absorption", "sparse_probing", "tpp", "scr"])
def test_how_latents_are_numbered_changes_nothing(family: str, suite: Suite, sae: InferenceSAE) -> None:
    order = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    assert sae.threshold_F is not None
    permuted = replace(
        sae,
        W_enc_DF=sae.W_enc_DF[:, order].contiguous(),
        b_enc_F=sae.b_enc_F[order],
        W_dec_FD=sae.W_dec_FD[order].contiguous(),
        threshold_F=sae.threshold_F[order],
    )
    before, after = (figures(suite.measure(family, Subject(one))) for one in (sae, permuted))
    assert after == pytest.approx(before, abs=2e-3)


@pytest.mark.parametrize("family", ["absorption", "sparse_probing", "tpp", "scr", "ood"])
def test_the_units_of_latents_change_nothing(family: str, suite: Suite, sae: InferenceSAE) -> None:
    gain_F = torch.rand(256, generator=torch.Generator().manual_seed(2)) * 3 + 0.5
    assert sae.threshold_F is not None
    scaled = replace(
        sae,
        W_enc_DF=sae.W_enc_DF * gain_F,
        b_enc_F=sae.b_enc_F * gain_F,
        W_dec_FD=sae.W_dec_FD / gain_F[:, None],
        threshold_F=sae.threshold_F * gain_F,
    )
    before, after = (figures(suite.measure(family, Subject(one))) for one in (sae, scaled))
    assert after == pytest.approx(before, abs=2e-3)


def test_texts_are_encoded_once_for_all_families(suite: Suite, sae: InferenceSAE) -> None:
    subject = Subject(sae)
    suite.measure("sparse_probing", subject)
    pooled = dict(subject._pooled)
    for family in ("tpp", "scr", "ood"):
        suite.measure(family, subject)
    assert subject._pooled.keys() == pooled.keys()


def test_concepts_an_lm_does_not_know_are_not_measured(suite: Suite, sae: InferenceSAE) -> None:
    spelling = replace(suite._settings, concepts=["first_letter"], concept_words=300)
    suite = Suite(suite._lm, suite._held_out, suite._cache, spelling, str(ROOT / "assets/tiny_lm"))
    measured = suite.measure("absorption", Subject(sae))
    assert "not measurable on this LM" in measured.notes["first_letter"]
    assert "first_letter/full_absorption" not in measured.metrics


def test_only_an_lm_whose_features_are_known_has_a_ground_truth(suite: Suite, sae: InferenceSAE) -> None:
    assert suite.measure("ground_truth", Subject(sae)).metrics == {}
