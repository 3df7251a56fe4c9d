"""Targeted probe perturbation on cases worked out by hand, and what must not change it."""

import pytest
import torch
from torch import Tensor

from masked_sae.evals.text_probes import LinearProbes, one_against_rest
from masked_sae.evals.tpp import Tpp, TppProbes, fit_tpp_probes, tpp

CLASSES = 4


def orthogonal(shared: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Each class has a latent with a direction of its own; `shared` of it goes along the next class' direction.

    Returns labels, train, f, W_dec and x; two more latents never fire.
    """
    labels_N = torch.arange(200) % CLASSES
    train_N = torch.arange(200) < 160
    f_NF = torch.nn.functional.one_hot(labels_N, CLASSES + 2).float()
    directions_CD = torch.eye(CLASSES, 6)
    W_dec_FD = torch.cat([directions_CD + shared * directions_CD.roll(-1, 0), torch.ones(2, 6)])
    return labels_N, train_N, f_NF, W_dec_FD, f_NF @ W_dec_FD


def perfect(x_ND: Tensor, labels_N: Tensor, train_N: Tensor) -> TppProbes:
    train, test = (one_against_rest(labels_N, chosen_N, 0) for chosen_N in (train_N, ~train_N))
    probes = LinearProbes(torch.eye(CLASSES, 6), torch.full((CLASSES,), -0.5))
    return TppProbes.on(x_ND, probes, train, test)


def test_a_latent_for_each_class_hurts_its_own_probe_only() -> None:
    labels_N, train_N, f_NF, W_dec_FD, x_ND = orthogonal()
    result = tpp(perfect(x_ND, labels_N, train_N), f_NF, W_dec_FD, ns=(1, 3))
    # Without its latent no text of the class is found, all others are still told: 1 to 1/2.
    assert result.clean == 1
    assert result.intended == {1: 0.5, 3: 0.5}
    assert result.unintended == {1: 0, 3: 0}
    assert result.metrics()["top_1"] == 0.5


def test_a_latent_that_two_classes_need_hurts_both() -> None:
    labels_N, train_N, f_NF, _, _ = orthogonal()
    f_NF = f_NF[:, :2] + f_NF[:, 2:4]  # latent 0 fires in classes 0 and 2, latent 1 in 1 and 3
    directions_FD = torch.eye(2, 6)
    probes = LinearProbes(directions_FD.repeat(2, 1), torch.full((CLASSES,), -0.5))
    train, test = (one_against_rest(labels_N, chosen_N, 0) for chosen_N in (train_N, ~train_N))
    fitted = TppProbes.on(f_NF @ directions_FD, probes, train, test)
    result = tpp(fitted, f_NF, directions_FD, ns=(1,))
    # A class' probe fires on 1/2 + 1/6 of its set; ablated it fires on none, and is right on the negatives, 1/2.
    ablated, clean = 0.5, fitted.accuracies_C.mean().item()
    assert result.intended[1] == pytest.approx(clean - ablated)
    assert result.unintended[1] == pytest.approx((clean - ablated) / 3)  # one other class of three has lost as much


def test_only_latents_that_speak_for_the_class_are_ablated() -> None:
    labels_N, train_N, f_NF, W_dec_FD, x_ND = orthogonal()
    f_NF, W_dec_FD = torch.cat([f_NF, f_NF[:, :1]], 1), torch.cat([W_dec_FD, -W_dec_FD[:1]])  # fires in 0, against 0
    few, many = (tpp(perfect(x_ND, labels_N, train_N), f_NF, W_dec_FD, ns=(n,)) for n in (1, 7))
    assert few.intended[1] == many.intended[7]


def test_more_latents_than_there_are_is_left_out() -> None:
    labels_N, train_N, f_NF, W_dec_FD, x_ND = orthogonal()
    result = tpp(perfect(x_ND, labels_N, train_N), f_NF, W_dec_FD)
    assert sorted(result.intended) == [2, 5]
    assert set(result.metrics()) == {
        *("top_2", "top_5", "intended_2", "intended_5", "unintended_2", "unintended_5", "clean_accuracy")
    }


def noisy() -> tuple[TppProbes, Tensor, Tensor]:
    labels_N, train_N, f_NF, W_dec_FD, _ = orthogonal(shared=0.3)
    generator = torch.Generator().manual_seed(0)
    f_NF = torch.cat([f_NF, torch.rand(200, 20, generator=generator)], 1)
    W_dec_FD = torch.cat([W_dec_FD, torch.randn(20, 6, generator=generator)])
    x_ND = f_NF @ W_dec_FD + 0.3 * torch.randn(200, 6, generator=generator)
    return fit_tpp_probes(x_ND, labels_N, train_N), f_NF, W_dec_FD


def close(one: Tpp, other: Tpp) -> bool:
    return one.metrics() == pytest.approx(other.metrics(), abs=1e-9)


def test_the_order_of_the_latents_does_not_matter() -> None:
    fitted, f_NF, W_dec_FD = noisy()
    order_F = torch.randperm(26, generator=torch.Generator().manual_seed(1))
    assert close(tpp(fitted, f_NF, W_dec_FD), tpp(fitted, f_NF[:, order_F], W_dec_FD[order_F]))


def test_scaling_a_latent_and_its_decoder_row_inversely_changes_nothing() -> None:
    fitted, f_NF, W_dec_FD = noisy()
    scale_F = torch.rand(26, generator=torch.Generator().manual_seed(1)) * 10 + 0.1
    assert close(tpp(fitted, f_NF, W_dec_FD), tpp(fitted, f_NF * scale_F, W_dec_FD / scale_F[:, None]))


def test_fitted_probes_find_planted_classes_and_lose_them() -> None:
    labels_N, train_N, f_NF, W_dec_FD, x_ND = orthogonal()
    fitted = fit_tpp_probes(10 * x_ND, labels_N, train_N)
    assert fitted.accuracies_C.tolist() == [1] * CLASSES
    result = tpp(fitted, 10 * f_NF, W_dec_FD, ns=(1,))
    assert result.intended[1] == pytest.approx(0.5)
    assert result.unintended[1] == pytest.approx(0)
