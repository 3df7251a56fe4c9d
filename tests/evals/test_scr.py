"""Spurious correlation removal: planted, and removed."""

import pytest
import torch
from torch import Tensor

from masked_sae.errors import InputError
from masked_sae.evals.scr import ATTRIBUTE, BIASED, LABEL, Scr, ScrProbes, fit_scr_probes, scr


def planted(noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Latent 0 carries the label, weakly; latent 1 the attribute, strongly.

    Returns labels, attributes, train, f and W_dec.
    """
    n = torch.arange(400)
    labels_N, attributes_N, train_N = n % 2 == 0, n // 2 % 2 == 0, n < 320
    generator = torch.Generator().manual_seed(0)
    f_NF = torch.stack([labels_N.float(), 3 * attributes_N.float()], 1)
    f_NF = torch.cat([f_NF, noise * torch.rand(400, 10, generator=generator)], 1)
    W_dec_FD = torch.cat([torch.eye(2, 8), torch.randn(10, 8, generator=generator)])
    return labels_N, attributes_N, train_N, f_NF, W_dec_FD


def with_probes(w_biased: tuple[float, float], b_biased: float, reads: float = 1.0) -> tuple[ScrProbes, Tensor, Tensor]:
    labels_N, attributes_N, train_N, f_NF, W_dec_FD = planted()
    fitted = fit_scr_probes(f_NF @ W_dec_FD, labels_N, attributes_N, train_N)
    probes = fitted.probes
    W_CD, b_C = torch.zeros_like(probes.W_CD), torch.zeros_like(probes.b_C)
    W_CD[LABEL, 0], W_CD[ATTRIBUTE, 1] = 1, reads
    W_CD[BIASED, 0], W_CD[BIASED, 1] = w_biased
    b_C[:] = torch.tensor([-0.5, -1.5 * reads, b_biased])
    changed = ScrProbes.on(f_NF @ W_dec_FD, type(probes)(W_CD, b_C), fitted.train, fitted.balanced)
    return changed, f_NF, W_dec_FD


def test_ablating_the_one_latent_that_carries_the_correlation_gives_1() -> None:
    # logit = label + 3 attribute - 0.5: true for any text with the attribute, so 3/4 right on labels; without latent 1
    # it reads the label alone.
    fitted, f_NF, W_dec_FD = with_probes((1, 1), -0.5)
    result = scr(fitted, f_NF, W_dec_FD, ns=(1,))
    assert fitted.clean.tolist() == [1, 1]
    assert fitted.biased.tolist() == [0.75, 0.75]
    assert result.label_shares == {1: 1}


def test_the_direction_in_which_the_biased_probe_does_worse_counts() -> None:
    fitted, f_NF, W_dec_FD = with_probes((1, 1), -2)  # reads only the attribute: labels 1/2, attributes 1
    result = scr(fitted, f_NF, W_dec_FD, ns=(1,))
    assert (result.clean, result.biased) == (1, 0.5)
    assert result.shares == result.label_shares
    assert result.attribute_shares == {1: 0}  # nothing lost there, as in SAEBench
    assert result.shares == {1: 0}  # label - 2 without the attribute: always false, as bad as before


def test_equal_directions_are_averaged() -> None:
    fitted, f_NF, W_dec_FD = with_probes((1, 1), -0.5)
    result = scr(fitted, f_NF, W_dec_FD, ns=(1,))
    # Without latent 0 the logit is 3 attribute - 0.5, which tells the attribute.
    assert result.attribute_shares == {1: 1}
    assert result.shares == {1: 1}


def test_latents_without_effect_on_the_attributes_probe_stay() -> None:
    fitted, f_NF, W_dec_FD = with_probes((1, 1 / 6), -0.75)  # label + attribute / 2 - 0.75: right on all labels ...
    b_C = fitted.probes.b_C.clone()
    b_C[BIASED] = -0.25  # ... but those of texts with the attribute
    fitted = ScrProbes.on(f_NF @ W_dec_FD, type(fitted.probes)(fitted.probes.W_CD, b_C), fitted.train, fitted.balanced)
    both = scr(fitted, f_NF, W_dec_FD, ns=(1, 2))
    assert both.label_shares == {1: 1, 2: 1}  # only one latent has an effect on the attribute's probe


def noisy() -> tuple[ScrProbes, Tensor, Tensor]:
    labels_N, attributes_N, train_N, f_NF, W_dec_FD = planted(noise=1.0)
    return fit_scr_probes(f_NF @ W_dec_FD, labels_N, attributes_N, train_N), f_NF, W_dec_FD


def same(one: Scr, other: Scr) -> bool:
    return one.metrics() == pytest.approx(other.metrics(), abs=1e-9)


def test_the_order_of_the_latents_does_not_matter() -> None:
    fitted, f_NF, W_dec_FD = noisy()
    order_F = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert same(scr(fitted, f_NF, W_dec_FD), scr(fitted, f_NF[:, order_F], W_dec_FD[order_F]))


def test_scaling_a_latent_and_its_decoder_row_inversely_changes_nothing() -> None:
    fitted, f_NF, W_dec_FD = noisy()
    scale_F = torch.rand(12, generator=torch.Generator().manual_seed(1)) * 10 + 0.1
    assert same(scr(fitted, f_NF, W_dec_FD), scr(fitted, f_NF * scale_F, W_dec_FD / scale_F[:, None]))


def test_swapping_label_and_attribute_swaps_the_directions() -> None:
    labels_N, attributes_N, train_N, f_NF, W_dec_FD = planted()
    fitted = fit_scr_probes(f_NF @ W_dec_FD, attributes_N, labels_N, train_N)
    assert torch.equal(fitted.balanced.rows_CM.sort(1).values[0], fitted.balanced.rows_CM.sort(1).values[1])
    positive_M = fitted.balanced.rows_CM[LABEL][fitted.balanced.positive_CM[LABEL]]
    assert attributes_N[positive_M].all() and not labels_N[positive_M].all()


def test_training_sets_are_balanced_but_for_the_biased_one() -> None:
    labels_N, attributes_N, train_N, f_NF, W_dec_FD = planted()
    fitted = fit_scr_probes(f_NF @ W_dec_FD, labels_N, attributes_N, train_N)
    for task, wanted_N, other_N in ((LABEL, labels_N, attributes_N), (ATTRIBUTE, attributes_N, labels_N)):
        row_M, positive_M = fitted.train.rows_CM[task], fitted.train.positive_CM[task]
        assert torch.equal(wanted_N[row_M], positive_M)
        assert other_N[row_M[positive_M]].float().mean() == other_N[row_M[~positive_M]].float().mean() == 0.5
    row_M, positive_M = fitted.train.rows_CM[BIASED], fitted.train.positive_CM[BIASED]
    assert torch.equal(labels_N[row_M], positive_M) and torch.equal(attributes_N[row_M], positive_M)
    assert train_N[fitted.train.rows_CM].all() and not train_N[fitted.balanced.rows_CM].any()
    assert all(len(row_M.unique()) == 160 for row_M in fitted.train.rows_CM)


def test_an_empty_quadrant_is_refused() -> None:
    labels_N, _, train_N, f_NF, W_dec_FD = planted()
    with pytest.raises(InputError, match=r"eval\.tasks=.*none has label 1 and attribute 0"):
        fit_scr_probes(f_NF @ W_dec_FD, labels_N, labels_N, train_N)
