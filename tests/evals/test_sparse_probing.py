"""Sparse probing on planted classes, and what must not change it."""

import pytest
import torch
from torch import Tensor

from masked_sae.evals.sparse_probing import ProbeAccuracies, SparseProbing, probe_accuracies
from masked_sae.evals.text_probes import one_against_rest


def planted(classes: int = 3, values: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Value c is 1 in class c and 0 elsewhere; the others are noise. Returns values, labels, train."""
    labels_N = torch.arange(240) % classes
    values_NE = 0.2 * torch.rand(240, values, generator=torch.Generator().manual_seed(0))
    values_NE[:, :classes] = torch.nn.functional.one_hot(labels_N, classes)
    return values_NE, labels_N, torch.arange(240) < 180


def test_one_value_that_is_the_class_is_found_among_noise() -> None:
    values_NE, labels_N, train_N = planted()
    assert probe_accuracies(values_NE, labels_N, train_N).top == {1: 1, 2: 1, 5: 1}


def test_noise_is_chance() -> None:
    values_NE, labels_N, train_N = planted()
    accuracies = probe_accuracies(values_NE[:, 3:], labels_N, train_N)
    assert all(0.3 < accuracy < 0.7 for accuracy in accuracies.top.values())


def test_values_are_picked_by_the_difference_of_means_not_by_what_a_probe_would_gain() -> None:
    """A value of large but useless difference comes before one that tells the class perfectly."""
    labels_N = torch.arange(200) % 2
    label_N = labels_N.float()
    wide_N = torch.where(torch.arange(200) % 40 == 1, 20.0, 0.0)  # 20 in one of 20 texts of class 1: mean 1
    values_NE = torch.stack([wide_N, 0.5 * label_N], 1)
    accuracies = probe_accuracies(values_NE, labels_N, torch.arange(200) < 160)
    assert accuracies.top[1] == pytest.approx(0.525)
    assert accuracies.top[2] == 1


def test_two_values_are_fitted_together() -> None:
    """The class is where both values agree in sign with their sum; neither alone tells it."""
    generator = torch.Generator().manual_seed(0)
    values_NE = torch.randn(2000, 2, generator=generator)
    labels_N = (values_NE.sum(1) > 0).long()
    accuracies = probe_accuracies(values_NE, labels_N, torch.arange(2000) < 1500)
    assert accuracies.top[1] == pytest.approx(0.75, abs=0.06)
    assert accuracies.top[2] > 0.97


def test_accuracy_is_measured_on_held_out_texts_only() -> None:
    values_NE, labels_N, train_N = planted()
    values_NE[~train_N] = values_NE[~train_N].roll(1, 1)[:, :]  # what was learned no longer holds
    assert probe_accuracies(values_NE, labels_N, train_N).top[1] < 0.6


def test_all_values_make_one_more_probe_unless_left_out() -> None:
    values_NE, labels_N, train_N = planted()
    assert probe_accuracies(values_NE, labels_N, train_N).all_values == 1
    assert probe_accuracies(values_NE, labels_N, train_N, all_values=False).all_values is None


def test_a_sparse_matrix_gives_the_same_probe_as_a_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(400) % 2
    values_NE = (torch.randn(400, 60, generator=generator) - 1.5 + 0.3 * labels_N[:, None]).relu()
    given = []
    for limit in (0.0, 1.0):
        monkeypatch.setattr("masked_sae.evals.sparse_probing._SPARSE", limit)
        given.append(probe_accuracies(values_NE, labels_N, torch.arange(400) < 300))
    assert given[0] == given[1]
    assert 0.5 < (given[0].all_values or 0) < 1


def test_more_values_than_there_are_is_left_out() -> None:
    values_NE, labels_N, train_N = planted(values=4)
    assert list(probe_accuracies(values_NE, labels_N, train_N).top) == [1, 2]


def test_an_sae_that_never_fires_is_at_chance() -> None:
    values_NE, labels_N, train_N = planted()
    accuracies = probe_accuracies(torch.zeros_like(values_NE), labels_N, train_N)
    assert accuracies == ProbeAccuracies({1: 0.5, 2: 0.5, 5: 0.5}, 0.5)


def test_the_order_of_the_values_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    values_NE, labels_N, train_N = planted()
    values_NE = values_NE + torch.rand(values_NE.shape, generator=generator)
    order_E = torch.randperm(12, generator=generator)
    one, other = (probe_accuracies(v, labels_N, train_N) for v in (values_NE, values_NE[:, order_E]))
    assert one == other


def test_units_matter_but_not_those_of_an_sae_with_decoder_norms_divided_out() -> None:
    """Scaling a latent makes it the first pick; times its decoder row's norm, which shrank alike, it is as it was."""
    generator = torch.Generator().manual_seed(0)
    values_NE, labels_N, train_N = planted()
    W_dec_FD = torch.randn(12, 6, generator=generator)
    W_dec_FD /= W_dec_FD.norm(dim=1, keepdim=True)
    scale_F = torch.ones(12).index_fill_(0, torch.tensor([7]), 100)
    scaled_NF, scaled_FD = values_NE * scale_F, W_dec_FD / scale_F[:, None]
    plain = probe_accuracies(values_NE, labels_N, train_N)
    assert probe_accuracies(scaled_NF, labels_N, train_N).top[1] < plain.top[1]
    assert probe_accuracies(scaled_NF * scaled_FD.norm(dim=1), labels_N, train_N) == plain


def test_metrics_stand_beside_those_of_the_lm() -> None:
    metrics = SparseProbing(ProbeAccuracies({1: 0.6, 2: 0.7}, 0.8), ProbeAccuracies({1: 0.5}, 0.9)).metrics()
    assert metrics == {"top_1": 0.6, "top_2": 0.7, "all_latents": 0.8, "lm": 0.9, "lm_top_1": 0.5}


def test_test_texts_are_balanced() -> None:
    _, labels_N, train_N = planted()
    sets = one_against_rest(labels_N, ~train_N, 0)
    assert sets.positive_CM.float().mean() == 0.5
