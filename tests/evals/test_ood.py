"""Out-of-distribution probing: planted shifts, and intervals against scikit-learn's AUC."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from masked_sae.evals.ood import ShiftScores, gap, ood, shift_scores


def planted(shift: float, texts: int = 600) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three classes with a direction each in distribution, `1 - shift` of it in the shifted texts, the rest another.

    Returns values, labels, train, shifted.
    """
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(texts) % 3
    shifted_N = torch.arange(texts) // 3 % 2 == 0
    train_N = torch.arange(texts) < texts // 2
    one_NE = torch.nn.functional.one_hot(labels_N, 6).float()
    share_N1 = shift * shifted_N[:, None]
    values_NE = (1 - share_N1) * one_NE + share_N1 * one_NE.roll(3, 1)
    return values_NE + 0.3 * torch.randn(texts, 6, generator=generator), labels_N, train_N, shifted_N


def test_without_a_shift_probe_and_oracle_agree() -> None:
    result = gap(shift_scores(*planted(0)))
    assert result.auc > 0.97 and result.oracle > 0.97 and result.in_distribution > 0.97
    assert result.gap_low <= 0.005 and abs(result.gap) < 0.02


def test_a_shift_to_other_values_leaves_the_probe_at_chance_and_not_the_oracle() -> None:
    result = gap(shift_scores(*planted(1)))
    assert abs(result.auc - 0.5) < 0.15 and result.oracle > 0.97 and result.in_distribution > 0.97
    assert 0.3 < result.gap_low < result.gap < result.gap_high < 0.7


def test_the_probe_sees_no_shifted_text_and_the_oracle_no_other() -> None:
    values_NE, labels_N, train_N, shifted_N = planted(0)
    one = shift_scores(values_NE, labels_N, train_N, shifted_N)
    other = shift_scores(values_NE, labels_N.where(~(train_N & shifted_N), 2 - labels_N), train_N, shifted_N)
    assert np.array_equal(one.probe_SC, other.probe_SC)
    assert not np.allclose(one.oracle_SC, other.oracle_SC)


def test_auc_and_intervals_are_those_of_scikit_learn_on_the_same_resamples() -> None:
    generator = np.random.default_rng(0)
    labels_S = generator.integers(0, 3, 80)
    labels_S[:3] = [0, 1, 2]
    probe_SC = np.round(generator.normal(size=(80, 3)) + np.eye(3)[labels_S], 1)  # with ties
    oracle_SC = generator.normal(size=(80, 3)) + 2 * np.eye(3)[labels_S]
    result = gap(ShiftScores(labels_S, probe_SC, oracle_SC, 1.0), resamples=1000)

    def auc(scores_SC: np.ndarray, texts: np.ndarray) -> float:
        return float(np.mean([roc_auc_score(labels_S[texts] == c, scores_SC[texts, c]) for c in range(3)]))

    every = np.arange(80)
    assert result.auc == pytest.approx(auc(probe_SC, every))
    assert result.oracle == pytest.approx(auc(oracle_SC, every))
    drawn = [generator.integers(0, 80, 80) for _ in range(80)]
    gaps = [auc(oracle_SC, texts) - auc(probe_SC, texts) for texts in drawn]
    assert [result.gap_low, result.gap_high] == pytest.approx(np.quantile(gaps, [0.025, 0.975]), abs=0.05)


def test_the_gaps_interval_is_paired() -> None:
    """A probe that says what the oracle says has no gap in any resample, however wide either interval is."""
    labels_S = np.arange(60) % 2
    scores_SC = np.random.default_rng(0).normal(size=(60, 2)) + 0.5 * np.eye(2)[labels_S]
    result = gap(ShiftScores(labels_S, scores_SC, scores_SC, 1.0))
    assert (result.gap, result.gap_low, result.gap_high) == (0, 0, 0)
    assert result.auc_high - result.auc_low > 0.1


def test_two_classes_have_one_auc() -> None:
    values_NE, labels_N, train_N, shifted_N = planted(0.5)
    scores = shift_scores(values_NE, (labels_N == 0).long(), train_N, shifted_N)
    expected = roc_auc_score(scores.labels_S, scores.probe_SC[:, 1])
    assert gap(scores, resamples=50).auc == pytest.approx(expected)


def test_units_and_order_of_the_values_do_not_matter() -> None:
    values_NE, labels_N, train_N, shifted_N = planted(0.7)
    expected = gap(shift_scores(values_NE, labels_N, train_N, shifted_N), resamples=50)
    order_E = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    for changed_NE in (values_NE * 1000, values_NE + 5, values_NE[:, order_E]):
        result = gap(shift_scores(changed_NE, labels_N, train_N, shifted_N), resamples=50)
        assert result.auc == pytest.approx(expected.auc, abs=1e-4)
        assert result.oracle == pytest.approx(expected.oracle, abs=1e-4)


def test_a_value_that_is_constant_in_training_has_no_say() -> None:
    values_NE, labels_N, train_N, shifted_N = planted(0.5)
    silent_N1 = torch.where(train_N, 0.0, 100 * torch.rand(len(train_N), generator=torch.Generator().manual_seed(0)))
    one = shift_scores(values_NE, labels_N, train_N, shifted_N)
    other = shift_scores(torch.cat([values_NE, silent_N1[:, None]], 1), labels_N, train_N, shifted_N)
    np.testing.assert_allclose(one.probe_SC, other.probe_SC)


def test_an_sae_that_never_fires_is_at_chance() -> None:
    values_NE, labels_N, train_N, shifted_N = planted(0)
    result = gap(shift_scores(torch.zeros_like(values_NE), labels_N, train_N, shifted_N), resamples=50)
    assert (result.auc, result.oracle, result.gap) == (0.5, 0.5, 0)


def test_the_same_seed_gives_the_same_intervals() -> None:
    scores = shift_scores(*planted(0.6))
    assert gap(scores, resamples=100) == gap(scores, resamples=100)
    assert gap(scores, resamples=100) != gap(scores, resamples=100, seed=1)


def test_metrics_have_latents_beside_the_lm() -> None:
    scores = shift_scores(*planted(0.6))
    metrics = ood(scores, replace(scores, in_distribution=0.25), resamples=50).metrics()
    assert metrics["gap"] == metrics["lm_gap"] == metrics["auc_latents_oracle"] - metrics["auc_latents"]
    assert metrics["auc_lm_in_distribution"] == 0.25
    assert metrics["gap_low"] <= metrics["gap"] <= metrics["gap_high"]
