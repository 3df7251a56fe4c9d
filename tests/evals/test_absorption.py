"""Absorption against cases computed by hand, a word-by-word version of the definition, and its invariances."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from masked_sae.evals.absorbed import absorption_at, split_latents
from masked_sae.evals.absorption import AbsorptionResult, evaluate_absorption
from masked_sae.evals.concept_probes import ConceptProbes, Ranking, fit_concept_probes, sparse_rows
from masked_sae.evals.texts.concepts import Concepts
from support.absorbing import D_IN, positions

pytestmark = pytest.mark.slow

# Four latents in a space of 3, the probe along the first axis: the split latent, two aligned with the probe by
# cosines of 0.6 and 0.05, and one that is orthogonal to it.
PROBE = torch.tensor([2.0, 0.0, 0.0])
DECODER = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0.05, 0, math.sqrt(1 - 0.0025)], [0, 1.0, 0]])
ALONG = 2.0  # of every activation below


def absorption_of(
    concepts: Concepts,
    x_PD: Tensor,
    f_PF: Tensor | csr_array,
    decoder_FD: Tensor,
    probes: ConceptProbes | None = None,
    ranking: Ranking = "weight",
) -> AbsorptionResult:
    return evaluate_absorption(concepts, x_PD, f_PF, decoder_FD, probes=probes, rankings=(ranking,))[ranking]


def at(*latents: float, along: float = ALONG) -> tuple[bool, float]:
    full_W, _, fraction_W, *_ = absorption_at(
        torch.tensor([[along, 7.0, -7.0]]), torch.tensor([latents]), DECODER, PROBE, [0]
    )
    return bool(full_W), fraction_W.item()


@pytest.mark.parametrize(
    ("latents", "full", "fraction"),
    [
        ((2.0, 0.0, 0.0, 9.0), False, 0.0),  # the split latent carries it all
        ((0.0, 2.0, 0.0, 0.0), True, 1.0),  # another carries 1.2 of 2 in its place
        ((0.0, 1.3, 0.0, 0.0), False, 0.0),  # 0.78 of 2 is less than 0.4
        ((0.0, 1.4, 0.0, 99.0), True, 1.0),  # 0.84 of 2 is enough; what is orthogonal carries nothing
        ((1.0, 2.0, 0.0, 0.0), False, 0.5),  # m = 1 leaves 1 of 2, and a = 1.2 is cut to that
        ((0.2, 2.0, 0.0, 0.0), False, 1.2 / 1.4),  # nothing to cut
        ((1.5, 2.0, 0.0, 0.0), False, 0.25),  # a = 0.5
        ((2.5, 2.0, 0.0, 0.0), False, 0.0),  # the split latent carries more than all
        ((0.0, 0.0, 20.0, 0.0), True, 0.0),  # a cosine of 0.05: enough for the one, not for the other
        ((0.0, 1.4, 20.0, 0.0), True, 1.0),
    ],
)
def test_rates_computed_by_hand(latents: tuple[float, ...], full: bool, fraction: float) -> None:
    assert at(*latents) == (full, pytest.approx(fraction, abs=1e-6))


def test_an_activation_that_does_not_point_to_the_concept_has_none() -> None:
    assert at(0.0, 2.0, 0.0, 0.0, along=-1.0) == (False, 0.0)
    assert at(0.0, 2.0, 0.0, 0.0, along=0.0) == (False, 0.0)


def test_only_three_latents_count_as_absorbing() -> None:
    decoder_FD = torch.tensor([[0.0, 1.0]] + [[1.0, 0.0]] * 5)
    f_WF = torch.tensor([[0.0, 0.13, 0.13, 0.13, 0.13, 0.13], [0.0, 0.14, 0.14, 0.14, 0.14, 0.14]])
    full_W, _, fraction_W, *_ = absorption_at(
        torch.tensor([[1.0, 0.0]]).expand(2, 2), f_WF, decoder_FD, torch.tensor([1.0, 0]), [0]
    )
    assert full_W.tolist() == [False, False]
    assert fraction_W.tolist() == [0.0, 1.0]  # 0.39 and 0.42 of 1


def word_by_word(
    x_D: list[float], f_F: list[float], decoder_FD: list[list[float]], probe_D: list[float], split: list[int]
) -> tuple[bool, float]:
    """The definition in plain Python, for decoder rows of unit norm."""

    def dot(a: list[float], b: list[float]) -> float:
        return sum(i * j for i, j in zip(a, b, strict=True))

    unit = [i / math.sqrt(dot(probe_D, probe_D)) for i in probe_D]
    cosines = [dot(row, unit) for row in decoder_FD]
    carried = [f * cosine for f, cosine in zip(f_F, cosines, strict=True)]
    along = dot(x_D, unit)
    if along <= 0:
        return False, 0.0
    top = max(range(len(f_F)), key=lambda latent: carried[latent])
    full = all(f_F[i] == 0 for i in split) and cosines[top] >= 0.025 and carried[top] / along >= 0.4
    candidates = sorted((carried[i] for i in range(len(f_F)) if i not in split and cosines[i] >= 0.1), reverse=True)
    a, m = sum(c for c in candidates[:3] if c > 0), sum(carried[i] for i in split)
    if m >= along or a / along < 0.4:
        return full, 0.0
    a = min(a, along - m)
    return full, 1.0 if m <= 0 else a / (a + m)


def test_all_positions_at_once_are_as_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    decoder_FD = F.normalize(torch.randn(60, 8, generator=generator), dim=1)
    probe_D = torch.randn(8, generator=generator)
    f_WF = torch.rand(400, 60, generator=generator) * (torch.rand(400, 60, generator=generator) < 0.1)
    x_WD = f_WF @ decoder_FD + 0.1 * torch.randn(400, 8, generator=generator)
    cosine_F = F.cosine_similarity(decoder_FD, probe_D, dim=1)
    split = cosine_F.topk(3).indices[1:].tolist()
    full_W, _, fraction_W, *_ = absorption_at(x_WD, f_WF, decoder_FD, probe_D, split)
    doubles = [tensor.double().tolist() for tensor in (x_WD, f_WF, decoder_FD, probe_D)]
    expected = [word_by_word(x, f, doubles[2], doubles[3], split) for x, f in zip(doubles[0], doubles[1], strict=True)]
    assert full_W.tolist() == [full for full, _ in expected]
    assert 0 < sum(full for full, _ in expected) < 400
    assert len({round(fraction, 3) for _, fraction in expected}) > 10
    torch.testing.assert_close(fraction_W, torch.tensor([fraction for _, fraction in expected]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("f1", "expected"),
    [
        ((0.7, 0.72, 0.9), 1),  # the second adds too little, whatever the third would
        ((0.7, 0.74, 0.76), 2),
        ((0.7, 0.73, 0.9), 1),  # by no more than 0.03
        ((0.2, 0.5, 0.8), 3),
        ((0.0, 0.0, 0.0), 1),
        ((0.9,), 1),
    ],
)
def test_split_latents_are_the_shortest_prefix_past_which_f1_hardly_grows(f1: tuple[float, ...], expected: int) -> None:
    assert split_latents([8, 5, 2][: len(f1)], f1) == (8, 5, 2)[:expected]


def results(result: AbsorptionResult) -> list[tuple[tuple[int, ...], int, float, float]]:
    return [(c.split_latents, c.positions, c.full_absorption, c.absorption_fraction) for c in result.concepts]


def test_an_sae_that_absorbs_a_known_share_of_a_concept() -> None:
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=10)
    result = absorption_of(concepts, x_PD, f_PF, decoder_FD)
    assert result.not_measurable is None
    assert results(result) == [((0,), 80, 0.25, 0.25), ((1,), 80, 0.0, 0.0), ((2,), 80, 0.0, 0.0)]
    assert [concept.probe_f1 for concept in result.concepts] == [1.0, 1.0, 1.0]
    assert result.concepts[0].sparse_f1[0] == pytest.approx(2 * 0.75 / 1.75)  # a quarter of its positions is missed
    l0 = 2 * (3 / 4) + 1 / 4 - 10 / 160  # 2 latents, 1 without concept; 1 where absorbed, at 20 of 320 test positions
    assert result.metrics() == {
        "full_absorption": pytest.approx(0.25 / 3),
        "absorption_fraction": pytest.approx(0.25 / 3),
        "split_latents": 1.0,
        "concepts": 3.0,
        "l0": pytest.approx(l0),
    }


def test_an_sae_that_absorbs_nothing() -> None:
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=0)
    metrics = absorption_of(concepts, x_PD, f_PF, decoder_FD).metrics()
    assert (metrics["full_absorption"], metrics["absorption_fraction"], metrics["split_latents"]) == (0.0, 0.0, 1.0)


def test_what_one_latent_more_can_tell_is_split_and_not_absorbed() -> None:
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=10)
    merged = D_IN  # one latent does the work of the ten absorbing ones
    f_PF[:, merged] = f_PF[:, D_IN:].sum(1)
    f_PF[:, D_IN + 1 :] = 0
    result = absorption_of(concepts, x_PD, f_PF, decoder_FD)
    assert set(result.concepts[0].split_latents) == {0, merged}
    assert result.metrics()["full_absorption"] == 0


def test_permuting_latents_changes_nothing() -> None:
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=10)
    order_F = torch.randperm(len(decoder_FD), generator=torch.Generator().manual_seed(3))
    before = absorption_of(concepts, x_PD, f_PF, decoder_FD)
    after = absorption_of(concepts, x_PD, f_PF[:, order_F], decoder_FD[order_F])
    assert after.metrics() == before.metrics()
    assert [tuple(order_F[list(c.split_latents)].tolist()) for c in after.concepts] == [(0,), (1,), (2,)]


@pytest.mark.parametrize("ranking", ["weight", "contribution"])
def test_scaling_latents_and_their_decoder_rows_inversely_changes_nothing(ranking: Ranking) -> None:
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=10)
    factor_F = 2.0 ** torch.randint(-6, 7, (len(decoder_FD),), generator=torch.Generator().manual_seed(3))
    before = absorption_of(concepts, x_PD, f_PF, decoder_FD, ranking=ranking)
    after = absorption_of(concepts, x_PD, f_PF * factor_F, decoder_FD / factor_F[:, None], ranking=ranking)
    assert after == before
    factors = (torch.ones_like(factor_F), factor_F)
    at_once = [absorption_at(x_PD, f_PF * c_F, decoder_FD / c_F[:, None], x_PD[0], [0]) for c_F in factors]
    assert torch.equal(at_once[0][0], at_once[1][0])
    torch.testing.assert_close(at_once[0][1], at_once[1][1])


def test_sparse_latents_and_a_ground_truth_fitted_before_give_the_same() -> None:
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=10)
    expected = absorption_of(concepts, x_PD, f_PF, decoder_FD)
    probes = fit_concept_probes(concepts, x_PD)
    assert absorption_of(concepts, x_PD, sparse_rows(f_PF), decoder_FD, probes=probes) == expected
    assert absorption_of(concepts, x_PD, f_PF.to_sparse_coo(), decoder_FD, probes=probes) == expected


def test_latents_that_are_dead_or_without_decoder_do_no_harm() -> None:
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=10)
    more_PF = torch.cat([f_PF, torch.zeros(len(f_PF), 1), torch.full((len(f_PF), 1), 5.0)], dim=1)
    result = absorption_of(concepts, x_PD, more_PF, torch.cat([decoder_FD, torch.zeros(2, D_IN)]))
    assert results(result) == results(absorption_of(concepts, x_PD, f_PF, decoder_FD))


def unknown_second(concepts: Concepts) -> Concepts:
    """With a second concept of which no activation tells."""
    labels_PC = concepts.labels_PC.clone()
    labels_PC[:, 1] = torch.rand(len(labels_PC), generator=torch.Generator().manual_seed(0)) < 0.1
    return replace(concepts, labels_PC=labels_PC)


def test_concepts_that_the_lm_does_not_know_are_left_out() -> None:
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=10)
    result = absorption_of(replace(unknown_second(concepts), minimum=2), x_PD, f_PF, decoder_FD)
    assert [concept.concept for concept in result.concepts] == ["a", "c"]
    assert result.metrics()["full_absorption"] == pytest.approx(0.125)


def test_too_few_concepts_are_not_measurable_rather_than_zero() -> None:
    concepts, x_PD, f_PF, decoder_FD = positions(children_absorbed=10)
    result = absorption_of(unknown_second(concepts), x_PD, f_PF, decoder_FD)
    assert result.not_measurable == "2 of 3 concepts have a ground-truth probe with an F1 over 0.6; 3 are needed"
    assert result.concepts == () and set(result.metrics()) == {"concepts", "l0"}
    assert result.metrics()["concepts"] == 2
