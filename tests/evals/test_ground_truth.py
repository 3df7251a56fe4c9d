"""Ground-truth metrics on SAEs built by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.sequences import Sequences, make_sequences
from masked_sae.activations.synthetic_lm import build
from masked_sae.activations.synthetic_truth import Truth, load_truth
from masked_sae.evals.ground_truth import GroundTruthMetrics, evaluate_ground_truth, ground_truth_metrics, true_batches
from masked_sae.text.synthetic import Feature, Recipe

# Two parents, two children of the first, one of the second, and a feature that never occurs; all orthogonal.
P0, P1, C00, C01, C10, UNUSED = range(6)
FEATURES = (
    Feature("parent 0", "parent"),
    Feature("parent 1", "parent"),
    Feature("child 0.0", "child", 0),
    Feature("child 0.1", "child", 0),
    Feature("child 1.0", "child", 1),
    Feature("unused", "special"),
)
TRUTH = Truth(FEATURES, 0, torch.eye(8)[:6], torch.empty(0, 6), torch.empty(0, 6))
# Of parent 0: 4 activations alone, 6 with its first child, 4 with its second. Of parent 1: 5 alone, 5 with its child.
KINDS = [((P0,), 4), ((P0, C00), 6), ((P0, C01), 4), ((P1,), 5), ((P1, C10), 5)]


def coefficients() -> Tensor:
    rows = [set(active) for active, count in KINDS for _ in range(count)]
    return torch.tensor([[float(g in row) for g in range(6)] for row in rows])


def rows_of(*active: int) -> Tensor:
    """Indices of the activations with exactly these features."""
    return (coefficients().bool() == torch.tensor([g in active for g in range(6)])).all(1).nonzero()[:, 0]


def perfect() -> tuple[Tensor, Tensor]:
    """Decoder rows and latents; a spare latent at the end that never fires."""
    W_dec_FD = torch.cat([TRUTH.directions_GD, torch.eye(8)[7:]])
    return W_dec_FD, F.pad(coefficients(), (0, 1))


def measure(W_dec_FD: Tensor, f_BF: Tensor) -> GroundTruthMetrics:
    return ground_truth_metrics(W_dec_FD, f_BF, coefficients(), TRUTH)


def between(*directions: int) -> Tensor:
    return F.normalize(TRUTH.directions_GD[list(directions)].sum(0), dim=0)


def absorbing() -> tuple[Tensor, Tensor]:
    """The parent's latent is silent on 3 of 6 and 1 of 4 activations with a child; the children's latents carry it."""
    W_dec_FD, f_BF = perfect()
    W_dec_FD = torch.cat([W_dec_FD, between(P0, C00)[None], between(P0, C01)[None]])
    f_BF = F.pad(f_BF, (0, 2))
    for child, latent, count in ((C00, 7, 3), (C01, 8, 1)):
        absorbed_B = rows_of(P0, child)[:count]
        f_BF[absorbed_B, P0] = f_BF[absorbed_B, child] = 0
        f_BF[absorbed_B, latent] = 1.4
    return W_dec_FD, f_BF


def test_a_perfect_sae_finds_everything() -> None:
    metrics = measure(*perfect())
    assert metrics.metrics() == {
        "mean_max_cosine": pytest.approx(1),
        "recovered": 1,
        "absorption_rate": 0,
        "parent_recall_with_child": 1,
        "parent_recall_alone": 1,
        "false_firing": 0,
        "l0": pytest.approx((9 * 1 + 15 * 2) / 24),
    }
    assert metrics.tokens == 24


def test_a_known_share_is_absorbed() -> None:
    metrics = measure(*absorbing())
    assert metrics.absorption_P.tolist() == pytest.approx([4 / 10, 0])
    assert metrics.recall_with_child_P.tolist() == pytest.approx([6 / 10, 1])
    assert metrics.recall_alone_P.tolist() == [1, 1]
    assert metrics.false_firing_P.tolist() == [0, 0]
    assert metrics.cosine_P.tolist() == pytest.approx([1, 1])
    assert metrics.metrics()["absorption_rate"] == pytest.approx(0.2)


def test_a_feature_of_the_context_is_absorbed_by_what_the_token_brings() -> None:
    """The context tells of parent 0 wherever it is there; on 2 of 14 activations latents of the token's carry that."""
    context = UNUSED
    truth = replace(TRUTH, features=(*FEATURES[:5], Feature("context 0", "context", 0)))
    coefficients_BG = coefficients()
    coefficients_BG[:, context] = coefficients_BG[:, P0]
    W_dec_FD = torch.cat([TRUTH.directions_GD, between(P0, context)[None], between(C00, context)[None]])
    f_BF = F.pad(coefficients_BG, (0, 2))
    for active, main, latent in (((P0,), P0, 6), ((P0, C00), C00, 7)):
        row = rows_of(*active)[0]
        f_BF[row, [main, context]] = 0
        f_BF[row, latent] = 1.4
    found = ground_truth_metrics(W_dec_FD, f_BF, coefficients_BG, truth)
    assert found.absorption_X.tolist() == pytest.approx([2 / 14])
    assert found.metrics()["context_absorption_rate"] == pytest.approx(2 / 14)
    assert "context_absorption_rate" not in measure(*perfect()).metrics()


def test_a_parent_without_a_latent_is_absorbed_whole() -> None:
    W_dec_FD, f_BF = perfect()
    W_dec_FD[[C00, C01], P0] = 0.75  # cosine 0.6 with the parent, 0.8 with the child
    f_BF[:, P0] = 0
    metrics = measure(W_dec_FD, f_BF)
    assert metrics.absorption_P[0] == 1
    assert metrics.recall_alone_P[0] == 0
    assert metrics.cosine_P[0] == 0


def test_a_child_latent_that_carries_the_parent_is_the_childs_own() -> None:
    """Nothing but children's latents fires on their tokens, and they carry the parent; one of the two is silent."""
    W_dec_FD, f_BF = perfect()
    W_dec_FD[C00], W_dec_FD[C01] = between(P0, C00), between(P0, C01)
    f_BF[rows_of(P0, C00), P0] = f_BF[rows_of(P0, C01), P0] = 0
    f_BF[rows_of(P0, C01), C01] = 0
    metrics = measure(W_dec_FD, f_BF)
    assert metrics.absorption_P[0].item() == pytest.approx(6 / 10)


def test_a_silent_parent_that_no_child_carries_is_missed_not_absorbed() -> None:
    W_dec_FD, f_BF = perfect()
    f_BF[rows_of(P0, C00), P0] = 0
    metrics = measure(W_dec_FD, f_BF)
    assert metrics.absorption_P.tolist() == [0, 0]
    assert metrics.recall_with_child_P.tolist() == pytest.approx([4 / 10, 1])


def test_the_latent_of_an_absent_child_absorbs_nothing() -> None:
    W_dec_FD, f_BF = absorbing()
    f_BF[:, [7, 8]] = f_BF[:, [8, 7]]
    assert measure(W_dec_FD, f_BF).absorption_P.tolist() == [0, 0]


def test_nothing_is_absorbed_where_the_parents_latent_fires_too() -> None:
    W_dec_FD, f_BF = absorbing()
    f_BF[:, P0] = coefficients()[:, P0]
    assert measure(W_dec_FD, f_BF).absorption_P.tolist() == [0, 0]


def test_a_latent_that_hardly_leans_towards_the_parent_does_not_carry_it() -> None:
    W_dec_FD, f_BF = absorbing()
    W_dec_FD[7] = W_dec_FD[8] = 0
    for latent, child in ((7, C00), (8, C01)):
        W_dec_FD[latent, child], W_dec_FD[latent, P0] = 1.0, 0.3  # cosine 0.287
    assert measure(W_dec_FD, f_BF).absorption_P.tolist() == [0, 0]
    W_dec_FD[[7, 8], P0] = 0.33  # cosine 0.313
    assert measure(W_dec_FD, f_BF).absorption_P[0].item() == pytest.approx(4 / 10)


def test_recall_alone_and_false_firing_are_counted() -> None:
    W_dec_FD, f_BF = perfect()
    f_BF[rows_of(P0)[:3], P0] = 0
    f_BF[rows_of(P1), P0] = 0.1
    metrics = measure(W_dec_FD, f_BF)
    assert metrics.recall_alone_P.tolist() == pytest.approx([1 / 4, 1])
    assert metrics.false_firing_P.tolist() == pytest.approx([5 / 16, 0])  # of 1 + 10 true and 5 false ones
    assert metrics.absorption_P.tolist() == [0, 0]


def test_firing_on_a_little_of_the_parent_is_not_false_but_missing_it_is_no_miss() -> None:
    W_dec_FD, f_BF = perfect()
    little_BG = coefficients()
    little_BG[rows_of(P1), P0] = 0.1
    quiet = ground_truth_metrics(W_dec_FD, f_BF, little_BG, TRUTH)
    f_BF[rows_of(P1), P0] = 0.1
    loud = ground_truth_metrics(W_dec_FD, f_BF, little_BG, TRUTH)
    for metrics in (quiet, loud):
        assert metrics.recall_alone_P.tolist() == [1, 1]
        assert metrics.false_firing_P.tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_order_and_scale_of_latents_change_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    W_dec_FD, f_BF = absorbing()
    W_dec_FD = W_dec_FD + 0.1 * torch.randn(W_dec_FD.shape, generator=generator)
    order_F = torch.randperm(len(W_dec_FD), generator=generator)
    scale_F = torch.rand(len(W_dec_FD), generator=generator) * 10 + 0.01
    one = measure(W_dec_FD, f_BF)
    other = measure((W_dec_FD / scale_F[:, None])[order_F], (f_BF * scale_F)[:, order_F])
    assert other.metrics() == pytest.approx(one.metrics())
    torch.testing.assert_close(other.absorption_P, one.absorption_P)
    assert one.absorption_P[0] > 0


def test_latents_are_matched_for_the_largest_sum() -> None:
    """Latent 0 suits both parents, latent 1 the first alone: so the second gets latent 0."""
    rows_FD = torch.zeros(2, 8)
    rows_FD[0, [P0, P1]] = torch.tensor([0.8, 0.6])
    rows_FD[1, [P0, 7]] = torch.tensor([0.6, 0.8])
    metrics = measure(rows_FD, torch.ones(24, 2))
    assert metrics.cosine_P.tolist() == pytest.approx([0.6, 0.6])
    assert metrics.mean_max_cosine == pytest.approx((0.8 + 0.6) / 5)  # of five features that occur
    assert metrics.recovered == 0


def test_a_latent_that_points_away_is_nobodys() -> None:
    W_dec_FD, f_BF = perfect()
    W_dec_FD[[P0, C00, C01]] = -torch.eye(8)[[6, 6, P0]]
    metrics = measure(W_dec_FD, torch.ones_like(f_BF))
    assert metrics.cosine_P.tolist() == pytest.approx([0, 1])
    assert metrics.recall_alone_P.tolist() == [0, 1]


def test_too_few_latents_find_their_share() -> None:
    W_dec_FD, f_BF = perfect()
    metrics = measure(W_dec_FD[:2], f_BF[:, :2])
    assert metrics.recovered == pytest.approx(2 / 5)
    assert metrics.mean_max_cosine == pytest.approx(2 / 5)
    assert metrics.l0 == 1


def test_a_latent_that_never_fires_finds_nothing_and_what_cannot_be_counted_is_left_out() -> None:
    W_dec_FD, f_BF = perfect()
    metrics = measure(W_dec_FD, torch.zeros_like(f_BF))
    assert metrics.metrics() == {
        "mean_max_cosine": 0,
        "recovered": 0,
        "absorption_rate": 0,
        "parent_recall_with_child": 0,
        "parent_recall_alone": 0,
        "l0": 0,
    }


# Through an LM with fewer features than dimensions, whose activations therefore tell all coefficients.
SMALL = Recipe(d_in=32, parents=4, carried_parents=2, children=3, words_alone=2, words_per_child=2, topics=3)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[LM, Truth]:
    folder: Path = tmp_path_factory.mktemp("ground_truth") / "lm"
    build(folder, SMALL)
    return load_lm(str(folder), "blocks.0.hook_resid_post"), load_truth(folder)


def sequences_of(lm: LM) -> Sequences:
    tokens = torch.randint(5, lm.vocab_size, (40 * 15,), generator=torch.Generator().manual_seed(0)).numpy()
    return make_sequences(tokens, 16, lm.special)


def test_what_the_lm_gives_is_read_and_a_perfect_sae_explains_it(small: tuple[LM, Truth]) -> None:
    lm, truth = small
    inverse_DG = torch.linalg.pinv(truth.directions_GD.double()).float()

    def encode(x_BD: Tensor) -> Tensor:
        f_BG = x_BD @ inverse_DG
        return f_BG * (f_BG > 1e-4)

    def run(tokens: int, seed: int) -> GroundTruthMetrics:
        batches = true_batches(lm, sequences_of(lm), truth, tokens=tokens, seed=seed, batch_size=7)
        return evaluate_ground_truth(encode, truth.directions_GD, batches, truth)

    metrics = run(600, 0)
    assert metrics.tokens == 600
    values = metrics.metrics()
    assert {key: values[key] for key in ("recovered", "absorption_rate", "false_firing")} == {
        "recovered": 1,
        "absorption_rate": 0,
        "false_firing": 0,
    }
    assert values["parent_recall_alone"] == values["parent_recall_with_child"] == 1
    tokens_NT, kept_NT = sequences_of(lm).read(torch.arange(40).numpy())
    true_l0 = (truth.true_features(tokens_NT)[kept_NT] > 1e-4).sum(1).float().mean().item()
    assert values["l0"] == pytest.approx(true_l0)
    assert run(600, 1).metrics() == pytest.approx(values)  # all of it, in another order
    assert run(100, 1).tokens == 105  # whole sequences
    assert run(100, 1).metrics() == run(100, 1).metrics()
    assert run(100, 1).l0 != run(100, 2).l0


def test_an_sae_that_sees_no_parents_beside_children_has_them_absorbed(small: tuple[LM, Truth]) -> None:
    """Each child's latent carries its parent, and the parent's latent fires where no child does."""
    lm, truth = small
    inverse_DG = torch.linalg.pinv(truth.directions_GD.double()).float()
    W_dec_GD = truth.directions_GD.clone()
    for g, feature in enumerate(truth.features):
        if feature.kind == "child" and feature.parent is not None:
            W_dec_GD[g] += truth.directions_GD[feature.parent]

    def encode(x_BD: Tensor) -> Tensor:
        f_BG = x_BD @ inverse_DG
        f_BG = f_BG * (f_BG > 1e-4)
        for parent in range(truth.parents):
            f_BG[(f_BG[:, truth.children_of(parent)] > 0).any(1), parent] = 0
        return f_BG

    batches = true_batches(lm, sequences_of(lm), truth, tokens=600, seed=0)
    metrics = evaluate_ground_truth(encode, W_dec_GD, batches, truth)
    assert metrics.absorption_P.tolist() == [1] * truth.parents
    assert metrics.recall_alone_P.tolist() == [1] * truth.parents
