"""All families on one LM: what is measured, what is shared, and what the SAE's numbering and units must not change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from masked_sae.activations.held_out import activation_batches
from masked_sae.activations.lm import load_lm
from masked_sae.activations.sequences import make_sequences
from masked_sae.errors import InputError
from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Measured, find_family, our_families
from masked_sae.evals.settings import FamilySettings
from masked_sae.evals.texts.activation_cache import ActivationCache
from masked_sae.report.catalogue import our_catalogue
from masked_sae.saes import InferenceSAE
from masked_sae.training.calibration import calibrated
from support.making import ROOT, compose

pytestmark = pytest.mark.slow

SMALL = [
    "eval=full",
    "eval.tokens=600",
    "eval.concepts=[token_class]",
    "eval.concept_tokens=3000",
    "eval.texts_per_class=12",
    "eval.text_tokens=16",
]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> EvalContext:
    """The embedded LM on a module of the standard library."""
    config = compose(SMALL)
    lm = load_lm(str(ROOT / config.lm.name), config.lm.hook_name)
    text = Path(pytest.__file__).read_text() + Path(torch.__file__).read_text()
    tokens = torch.tensor(lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]).numpy()
    cache = ActivationCache(tmp_path_factory.mktemp("cache"), "embedded", batch_size=32)
    return EvalContext(lm, make_sequences(tokens, 64, lm.special), cache, config.eval, config.lm.name)


@pytest.fixture(scope="module")
def ground_truth_context(tmp_path_factory: pytest.TempPathFactory) -> EvalContext:
    """The synthetic LM on random tokens."""
    config = compose(["lm=ground_truth", *SMALL])
    lm = load_lm(str(ROOT / config.lm.name), config.lm.hook_name)
    tokens = np.random.default_rng(0).integers(1, len(lm.tokenizer), 4000)
    cache = ActivationCache(tmp_path_factory.mktemp("cache"), "synthetic", batch_size=32)
    return EvalContext(lm, make_sequences(tokens, 64, lm.special), cache, config.eval, str(ROOT / config.lm.name))


@pytest.fixture(scope="module")
def sae(context: EvalContext) -> InferenceSAE:
    return random_sae(context)


def random_sae(context: EvalContext) -> InferenceSAE:
    """Random directions, about twenty of them active."""
    generator = torch.Generator().manual_seed(0)
    W_dec_FD = torch.nn.functional.normalize(torch.randn(256, context.lm.d_in, generator=generator), dim=1)
    zeros_D, zeros_F = torch.zeros(context.lm.d_in), torch.zeros(256)
    open_sae = InferenceSAE(W_dec_FD.T.contiguous(), zeros_F, W_dec_FD, zeros_D, zeros_D, threshold_F=zeros_F)
    read = activation_batches(context.lm, context.held_out, np.arange(8), 8)
    return calibrated(open_sae, 20, (batch.x_BD for batch in read))


FAMILIES = [family.name for family in our_families()]


@torch.inference_mode()
def measure(family: str, evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    return find_family(family, context.settings).measure(evaluated, context)


@torch.inference_mode()
def measure_all(family: str, saes: list[InferenceSAE], context: EvalContext) -> list[Measured | Exception]:
    return find_family(family, context.settings).measure_all([EvaluatedSAE(sae) for sae in saes], context)


def anew(context: EvalContext) -> EvalContext:
    """With the same texts, on fewer positions of concepts, and with nothing measured so far."""
    return context.beside(context.lm, context.cache, replace(context.settings, concept_tokens=800))


def figures(measured: Measured) -> dict[str, float]:
    return {key: round(value, 4) for key, value in measured.metrics.items()}


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "ground_truth"])
def test_every_family_says_at_which_l0_it_measured(family: str, context: EvalContext, sae: InferenceSAE) -> None:
    measured = measure(family, EvaluatedSAE(sae), context)
    l0s = [value for key, value in measured.metrics.items() if key.split("/")[-1] == "l0"]
    assert len(l0s) == 1 and 1 < l0s[0] < 256
    assert all(value == value for value in measured.metrics.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_reports_describe_every_metric(family: str, context: EvalContext, ground_truth_context: EvalContext) -> None:
    measuring = ground_truth_context if family == "ground_truth" else context
    found = measure(family, EvaluatedSAE(random_sae(measuring)), measuring).metrics
    described = [our_catalogue().describe(f"{family}/{key}") for key in found]
    assert [metric.key for metric in described if metric.label == metric.key or not metric.unit] == []
    assert len({metric.label for metric in described}) == len(found) > 4


@pytest.mark.parametrize("family", ["core", "absorption", "sparse_probing", "tpp", "scr"])
def test_how_latents_are_numbered_changes_nothing(family: str, context: EvalContext, sae: InferenceSAE) -> None:
    order = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    assert sae.threshold_F is not None
    permuted = replace(
        sae,
        W_enc_DF=sae.W_enc_DF[:, order].contiguous(),
        b_enc_F=sae.b_enc_F[order],
        W_dec_FD=sae.W_dec_FD[order].contiguous(),
        threshold_F=sae.threshold_F[order],
    )
    before, after = (figures(measure(family, EvaluatedSAE(one), context)) for one in (sae, permuted))
    assert after == pytest.approx(before, abs=2e-3)


@pytest.mark.parametrize("family", ["absorption", "sparse_probing", "tpp", "scr", "ood"])
def test_the_units_of_latents_change_nothing(family: str, context: EvalContext, sae: InferenceSAE) -> None:
    gain_F = torch.rand(256, generator=torch.Generator().manual_seed(2)) * 3 + 0.5
    assert sae.threshold_F is not None
    scaled = replace(
        sae,
        W_enc_DF=sae.W_enc_DF * gain_F,
        b_enc_F=sae.b_enc_F * gain_F,
        W_dec_FD=sae.W_dec_FD / gain_F[:, None],
        threshold_F=sae.threshold_F * gain_F,
    )
    before, after = (figures(measure(family, EvaluatedSAE(one), context)) for one in (sae, scaled))
    assert after == pytest.approx(before, abs=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_sae_among_others_has_the_figures_that_it_has_alone(
    family: str, context: EvalContext, ground_truth_context: EvalContext
) -> None:
    measuring = ground_truth_context if family == "ground_truth" else context
    saes = [random_sae(measuring), replace(random_sae(measuring), threshold_F=None, k=7)]
    first, last = measure_all(family, saes, anew(measuring))
    assert last == measure(family, EvaluatedSAE(saes[1]), anew(measuring))
    assert first != last
    if family != "absorption":  # it takes the longest, and sees one SAE at a time
        assert first == measure(family, EvaluatedSAE(saes[0]), anew(measuring))


@pytest.mark.parametrize("family", ["core", "sparse_probing"])
def test_an_sae_that_cannot_be_measured_harms_no_other(family: str, context: EvalContext, sae: InferenceSAE) -> None:
    broken = replace(sae, W_dec_FD=sae.W_dec_FD * torch.nan, W_enc_DF=sae.W_enc_DF * torch.nan)
    first, error, last = measure_all(family, [sae, broken, sae], anew(context))
    assert isinstance(error, ValueError)
    assert first == last == measure(family, EvaluatedSAE(sae), anew(context))


def test_contexts_of_several_hook_points_share_their_texts(context: EvalContext) -> None:
    other = context.beside(context.lm.at("blocks.0.hook_resid_post"), context.cache, context.settings)
    assert other.tasks is context.tasks
    more = replace(context.settings, text_tokens=24)
    assert context.with_settings(more).tasks is not context.tasks
    assert context.with_settings(replace(context.settings)) is context


def test_texts_are_encoded_once_for_all_families(context: EvalContext, sae: InferenceSAE) -> None:
    evaluated = EvaluatedSAE(sae)
    measure("sparse_probing", evaluated, context)
    pooled = dict(evaluated._pooled)
    for family in ("tpp", "scr", "ood"):
        measure(family, evaluated, context)
    assert evaluated._pooled.keys() == pooled.keys()


def test_concepts_an_lm_does_not_know_are_not_measured(context: EvalContext, sae: InferenceSAE) -> None:
    spelling = replace(context.settings, concepts=["first_letter"], concept_words=300)
    context = EvalContext(context.lm, context.held_out, context.cache, spelling, str(ROOT / "assets/tiny_lm"))
    measured = measure("absorption", EvaluatedSAE(sae), context)
    assert "not measurable on this LM" in measured.notes["first_letter"]
    assert "first_letter/full_absorption" not in measured.metrics


def test_only_an_lm_whose_features_are_known_has_a_ground_truth(context: EvalContext, sae: InferenceSAE) -> None:
    assert measure("ground_truth", EvaluatedSAE(sae), context).metrics == {}


def test_a_family_of_ones_own_has_the_name_it_is_asked_for_by(
    context: EvalContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its figures would be looked for under another name, and measured again each time."""
    (tmp_path / "somebodys_metric.py").write_text("from masked_sae.evals.core import FAMILY\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = replace(context.settings, own={"mine": FamilySettings(_module_="somebodys_metric")})
    with pytest.raises(InputError, match=r"eval\.own\.mine\._module_=somebodys_metric: expected a module with FAMILY"):
        find_family("mine", settings)
