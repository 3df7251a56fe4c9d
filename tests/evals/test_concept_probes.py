"""Probes against closed forms and other libraries."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn import functional as F

from masked_sae.evals.concept_probes import (
    SPARSE_FIT,
    ProbeFit,
    f1_scores,
    fit_probes,
    rank_latents,
    sparse_probe_f1,
    sparse_rows,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse_latents(positions: int, latents: int, density: float = 0.1, seed: int = 0) -> Tensor:
    return draw(positions, latents, seed=seed).abs() * (draw(positions, latents, seed=seed + 1).abs() < density)


def test_a_fit_takes_the_steps_that_autograd_and_adam_take() -> None:
    x_PD, labels_PC = draw(40, 6), draw(40, 3, seed=1) > 0.5
    fit = ProbeFit(weight_decay=0.01, l1_decay=0.1, epochs=7)
    probes = fit_probes(x_PD, labels_PC, fit, seed=0)

    layer = torch.nn.Linear(6, 3)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    adam = torch.optim.Adam(layer.parameters(), lr=0.01, weight_decay=0.01)
    negatives_per_positive_C = (~labels_PC).sum(0) / labels_PC.sum(0)
    for epoch in range(7):
        adam.param_groups[0]["lr"] = 0.01 * (1e-5 / 0.01) ** (epoch / 7)
        loss = F.binary_cross_entropy_with_logits(layer(x_PD), labels_PC.float(), pos_weight=negatives_per_positive_C)
        loss = loss + 0.1 * layer.weight.abs().sum(1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    torch.testing.assert_close(probes.W_CD, layer.weight.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(probes.b_C, layer.bias.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(probes.logits(x_PD), layer(x_PD).detach(), atol=1e-4, rtol=1e-4)


def test_sparse_rows_give_the_probe_that_dense_ones_give_also_in_batches() -> None:
    f_PF, labels_PC = sparse_latents(300, 20), draw(300, 4, seed=5) > 0
    fit = ProbeFit(epochs=5, batch_size=64, l1_decay=0.01)
    dense, sparse = (fit_probes(f, labels_PC, fit, seed=3) for f in (f_PF, sparse_rows(f_PF)))
    torch.testing.assert_close(dense.W_CD, sparse.W_CD, atol=1e-5, rtol=1e-4)
    again = fit_probes(sparse_rows(f_PF), labels_PC, fit, seed=3)
    assert torch.equal(sparse.W_CD, again.W_CD) and torch.equal(sparse.b_C, again.b_C)
    assert not torch.equal(sparse.W_CD, fit_probes(sparse_rows(f_PF), labels_PC, fit, seed=4).W_CD)


def test_every_layout_of_latents_becomes_the_same_sparse_rows() -> None:
    f_PF = sparse_latents(9, 5, density=0.5)
    rows = [sparse_rows(f) for f in (f_PF, f_PF.to_sparse_coo(), f_PF.to_sparse_csr(), csr_array(f_PF.numpy()))]
    for row in rows:
        assert isinstance(row, csr_array) and row.nnz == int((f_PF != 0).sum())
        np.testing.assert_array_equal(row.toarray(), f_PF.numpy())


def test_f1_is_that_of_scikit_learn() -> None:
    predicted_PC, labels_PC = draw(50, 5) > 0, draw(50, 5, seed=1) > 0.5
    predicted_PC[:, 4] = labels_PC[:, 4] = False  # neither: 0
    expected = f1_score(labels_PC.numpy(), predicted_PC.numpy(), average=None, zero_division=0)
    np.testing.assert_allclose(f1_scores(predicted_PC, labels_PC).numpy(), expected, rtol=1e-6)


def test_a_concept_without_positives_gets_a_probe_that_leans_to_no() -> None:
    labels_PC = torch.zeros(30, 2, dtype=torch.bool)
    labels_PC[:9, 1] = True
    probes = fit_probes(draw(30, 4), labels_PC, ProbeFit(), seed=0)
    assert torch.isfinite(probes.W_CD).all()
    assert probes.b_C[0] < 0


def test_latents_that_never_fire_keep_weight_zero_and_rank_below_those_that_speak_for_a_concept() -> None:
    labels_P = torch.arange(200) % 4 == 0
    f_PF = torch.zeros(200, 6)
    f_PF[labels_P, 2] = 3.0  # the concept's own
    f_PF[~labels_P, 4] = 5.0  # speaks against it
    f_PF[:, 5] = sparse_latents(200, 1)[:, 0]
    weight_F = fit_probes(f_PF, labels_P[:, None], SPARSE_FIT, 0).W_CD[0]
    assert weight_F[0] == weight_F[1] == weight_F[3] == 0 and weight_F[4] < 0 < weight_F[2]
    for ranking in ("weight", "contribution"):
        ranked = rank_latents(sparse_rows(f_PF), labels_P[:, None], 6, 0, rankings=[ranking])[ranking][0].tolist()
        assert ranked[0] == 2 and ranked[-1] == 4


def test_ranked_by_contribution_a_latent_that_hardly_fires_comes_after_one_that_tells() -> None:
    labels_P = torch.arange(1000) % 4 == 0
    f_PF = torch.zeros(1000, 30)
    for latent in range(29):
        f_PF[labels_P.nonzero()[latent], latent] = 13.0  # 29 positives have a latent of their own
    f_PF[labels_P, 29] = (torch.arange(250) >= 29).float()  # and all others share one
    weight_F = fit_probes(sparse_rows(f_PF), labels_P[:, None], SPARSE_FIT, 0).W_CD[0]
    assert weight_F.min() > 0.8 * weight_F.max()  # 50 steps take no weight further
    ranked = rank_latents(sparse_rows(f_PF), labels_P[:, None], 30, 0, rankings=["contribution"])["contribution"][
        0
    ].tolist()
    assert ranked[0] == 29


def test_permuting_latents_permutes_their_rank() -> None:
    labels_PC = draw(400, 2, seed=8) > 0.8
    f_PF = sparse_latents(400, 30, density=0.3)
    f_PF[:, :2] += 2.0 * labels_PC
    order_F = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    ranked = rank_latents(sparse_rows(f_PF), labels_PC, 3, 0)["weight"]
    permuted = rank_latents(sparse_rows(f_PF[:, order_F]), labels_PC, 3, 0)["weight"]
    assert torch.equal(order_F[permuted], ranked)


@pytest.mark.parametrize("density", [0.02, 0.3, 5.0])
def test_a_sparse_probe_is_scikit_learns_on_all_positions(density: float) -> None:
    labels_P = (draw(900, seed=2) > 1).numpy()
    f_PK = sparse_latents(900, 4, density).numpy()
    f_PK[labels_P, 1] += 0.5 * (draw(900, seed=3) > 0).numpy()[labels_P]
    test_P = np.arange(900) % 5 == 0
    expected: list[float] = []
    for k in range(1, 5):
        probe = LogisticRegression(max_iter=500, class_weight="balanced").fit(f_PK[~test_P, :k], labels_P[~test_P])
        expected.append(float(f1_score(labels_P[test_P], probe.predict(f_PK[test_P, :k]))))
    assert len(set(expected)) > 1
    np.testing.assert_allclose(sparse_probe_f1(f_PK, labels_P, test_P), expected, atol=1e-6)


def test_a_sparse_probe_of_a_concept_that_always_or_never_holds_says_nothing() -> None:
    f_PK, test_P = sparse_latents(20, 3, 1.0).numpy(), np.arange(20) > 15
    for holds in (True, False):
        assert sparse_probe_f1(f_PK, np.full(20, holds), test_P) == (0.0, 0.0, 0.0)
