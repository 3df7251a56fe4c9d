"""Metrics on tensors alone: against formulas, and against what the families compute."""

import string

import numpy as np
import pytest
import torch
from torch import Tensor

from masked_sae import evals
from masked_sae.evals import on_tensors
from masked_sae.evals.absorption import evaluate_absorption
from masked_sae.evals.sparse_probing import probe_accuracies
from masked_sae.evals.texts.activation_cache import TokenizedTexts
from masked_sae.evals.texts.concepts import Concepts
from masked_sae.evals.tpp import fit_tpp_probes, tpp
from masked_sae.saes import InferenceSAE, for_inference
from support.architectures import trained


@pytest.fixture(scope="module")
def sae() -> InferenceSAE:
    return for_inference(trained("matryoshka"), 0.5)


@pytest.fixture(scope="module", name="x_PD")
def _activations() -> Tensor:
    """Of four classes, which differ along the first four axes; the latents have something to tell."""
    x_PD = torch.randn(600, 16, generator=torch.Generator().manual_seed(1))
    x_PD[:, :4] += 6 * torch.nn.functional.one_hot(classes(), 4)
    return x_PD


def classes() -> Tensor:
    return torch.arange(600) // 5 % 4  # text by text, five activations each


def one_each(count: int) -> TokenizedTexts:
    ones_N = torch.ones(count, dtype=torch.long)
    return TokenizedTexts(torch.zeros(count, 1, dtype=torch.long), ones_N, torch.ones(count, 1, dtype=torch.bool))


@pytest.mark.parametrize("at_once", [7, 4096])
def test_reconstruction_is_as_its_formulas_say(
    sae: InferenceSAE, x_PD: Tensor, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_tensors, "_ROWS_AT_ONCE", at_once)
    x, f = x_PD.double().numpy(), sae.encode(x_PD).double().numpy()
    error = ((x - sae(x_PD).double().numpy()) ** 2).sum(1).mean()
    found = evals.measure_reconstruction(sae, x_PD)
    assert found.explained_variance == pytest.approx(1 - error / x.var(0).sum(), rel=1e-5)
    assert found.l0 == pytest.approx((f > 0).sum(1).mean()) and found.tokens == 600
    assert found.dead_latents == pytest.approx(1 - (f > 0).any(0).mean())
    np.testing.assert_allclose(evals.latent_frequency(sae, x_PD), (f > 0).mean(0))


@pytest.mark.slow
def test_absorption_is_the_familys(sae: InferenceSAE, x_PD: Tensor) -> None:
    labels_PC = torch.nn.functional.one_hot(classes(), 4).bool()
    test_P = torch.arange(600) % 3 == 0
    names = tuple(string.ascii_lowercase[:4])
    found = evals.measure_absorption(sae, x_PD, labels_PC, test_P, names=names)
    concepts = Concepts("own", one_each(600), names, labels_PC, test_P, 1)
    assert found == evaluate_absorption(concepts, x_PD, sae.encode(x_PD), sae.W_dec_FD)["weight"]
    assert found.measurable == 4 and [one.concept for one in found.concepts] == list(names)


def test_probing_is_the_familys_on_means_over_texts(sae: InferenceSAE, x_PD: Tensor) -> None:
    labels_N, train_N = classes()[::5], torch.arange(120) // 4 % 3 > 0
    text_P = torch.arange(600) // 5
    order_P = torch.randperm(600, generator=torch.Generator().manual_seed(0))  # the order of activations tells nothing
    found = evals.measure_sparse_probing(sae, x_PD[order_P], text_P[order_P], labels_N, train_N)
    x_ND, f_NF = x_PD.view(120, 5, 16).mean(1), sae.encode(x_PD).view(120, 5, 64).mean(1)
    on_latents = probe_accuracies(f_NF * sae.W_dec_FD.norm(dim=1), labels_N, train_N)
    assert found.latents.top == pytest.approx(on_latents.top, abs=0.02)
    assert found.lm.top == pytest.approx(probe_accuracies(x_ND, labels_N, train_N).top, abs=0.02)
    assert found.lm.all_values is not None and found.lm.all_values > 0.95
    perturbed = evals.measure_tpp(sae, x_PD, text_P, labels_N, train_N, ns=[2, 5])
    expected = tpp(fit_tpp_probes(x_ND, labels_N, train_N), f_NF, sae.W_dec_FD, ns=[2, 5])
    assert perturbed.intended == pytest.approx(expected.intended, abs=0.02)
    assert perturbed.clean == pytest.approx(expected.clean, abs=0.02)
