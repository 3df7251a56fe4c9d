"""A concept's positions one by one: the numbers of each, by hand from dense arrays, and that they are the metric's."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.evals.absorption import results_of
from masked_sae.evals.absorption_decisions import ConceptDecisions, DecidedSet, decide_absorption
from masked_sae.latents.absorption_cases import ConceptCases, Outcome, case_at, choose_places, concept_cases
from support.absorbing import positions

pytestmark = pytest.mark.slow


@pytest.fixture(name="found", scope="module")
def decided_set() -> DecidedSet:
    """Ten children of the first concept absorb it. Decoder rows have other norms than 1; noise makes all differ, and a
    few positions of the second concept have no latent at all.
    """
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=10)
    generator = torch.Generator().manual_seed(0)
    x_PD = x_PD + 0.1 * torch.randn(x_PD.shape, generator=generator)
    f_PF = f_PF * (1 + 0.1 * torch.rand(f_PF.shape, generator=generator))
    f_PF[400:410] = 0
    norm_F = 0.5 + torch.rand(len(decoder_FD), generator=generator)
    scaled = f_PF / norm_F, decoder_FD * norm_F[:, None]
    decisions = decide_absorption(concepts, x_PD, *scaled, rankings=("weight", "contribution"))
    return DecidedSet(concepts, x_PD, decisions)


@pytest.fixture(name="of_concepts", scope="module")
def cases_of_concepts(found: DecidedSet) -> list[ConceptCases]:
    return [concept_cases(found, decided) for decided in found.decisions.by_ranking["weight"]]


def dense(found: DecidedSet) -> tuple[Tensor, Tensor]:
    """Latents as if decoder rows had norm 1, and these rows, float64."""
    return torch.from_numpy(found.decisions.f_PF.toarray()).double(), found.decisions.unit_FD.double()


def probe_of(found: DecidedSet, decided: ConceptDecisions) -> Tensor:
    return F.normalize(found.decisions.probes.linear.W_CD[decided.concept].double(), dim=0)


def test_the_numbers_of_each_position_by_hand(found: DecidedSet, of_concepts: list[ConceptCases]) -> None:
    f_PF, unit_FD = dense(found)
    for of_concept in of_concepts:
        decided = of_concept.decided
        u_D = probe_of(found, decided)
        for place in range(of_concept.positions):
            case = case_at(found, decided, place)
            f_F, x_D = f_PF[case.position], found.x_PD[case.position].double()
            carried_F = f_F * (unit_FD @ u_D)
            assert carried_F[case.latent] == carried_F.max()
            assert case.carried == pytest.approx(carried_F.max().item(), rel=1e-5)
            assert case.carried == pytest.approx(case.activation * case.cosine, rel=1e-5)
            assert case.along == pytest.approx((x_D @ u_D).item(), rel=1e-5)
            assert case.share == (pytest.approx(case.carried / case.along) if case.along > 0 else None)
            assert case.main == pytest.approx(f_F[list(decided.split_latents)].tolist())
            logits = found.decisions.probes.linear
            by_hand = x_D @ logits.W_CD[decided.concept].double() + logits.b_C[decided.concept].double()
            assert case.logit == pytest.approx(by_hand.item(), rel=1e-4) and case.logit > 0
            silent = not f_F[list(decided.split_latents)].any()
            carries = case.cosine >= 0.025 and case.along > 0 and case.carried >= 0.4 * case.along
            assert case.outcome == ("fires" if not silent else "absorbed" if carries else "missed")
            assert found.concepts.test_P[case.position] and found.concepts.labels_PC[case.position, decided.concept]


def test_every_outcome_occurs_and_their_shares_are_the_metrics(
    found: DecidedSet, of_concepts: list[ConceptCases]
) -> None:
    metric = results_of(found.concepts, found.decisions)["weight"].concepts
    for cases, measured in zip(of_concepts, metric, strict=True):
        assert cases.full_absorption == measured.full_absorption
        assert cases.count(Outcome.ABSORBED) / cases.positions == measured.full_absorption
        assert cases.positions == measured.positions
        assert sum(cases.count(outcome) for outcome in Outcome) == cases.positions
    # At 20 of 80 test positions, those of ten children of forty, the latent is silent, at one its child's is too weak.
    counts = [[cases.count(outcome) for outcome in Outcome] for cases in of_concepts]
    assert counts == [[60, 19, 1], [70, 0, 10], [80, 0, 0]]


def test_latents_are_told_with_how_often_they_fire_and_absorb(
    found: DecidedSet, of_concepts: list[ConceptCases]
) -> None:
    f_PF, unit_FD = dense(found)
    absorbed = of_concepts[0]
    assert [one.latent for one in absorbed.main] == [0]
    assert len(absorbed.absorbing) == 10 and sum(one.absorbs for one in absorbed.absorbing) == 19
    for one in (*absorbed.main, *absorbed.absorbing):
        assert one.fires == int((f_PF[absorbed.decided.rows_W, one.latent] > 0).sum())
        assert one.cosine == pytest.approx((unit_FD[one.latent] @ probe_of(found, absorbed.decided)).item(), rel=1e-5)
    assert absorbed.main[0].absorbs == 0 and absorbed.main[0].f1 == absorbed.decided.sparse_f1[0]
    assert all(one.f1 is None for one in absorbed.absorbing)


def test_rare_latents_positions_are_shown_beside_those_of_frequent_ones() -> None:
    latent_W = torch.tensor([7, 7, 7, 7, 7, 7, 1, 2, 2, 9])
    assert choose_places(range(9), latent_W, most=5, of_one_latent=2) == [0, 3, 7, 8, 6]
    assert choose_places(range(9), latent_W, most=2, of_one_latent=2) == [0, 3]
    assert choose_places([], latent_W, most=2, of_one_latent=2) == []
    assert sorted(choose_places(range(10), latent_W, most=99, of_one_latent=99)) == list(range(10))
