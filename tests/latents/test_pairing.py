"""Latents paired by decoder cosine: against all cosines, permuted, and an SAE against itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from masked_sae.latents import pairing
from masked_sae.latents.pairing import Match, best_matches

SIZES = st.integers(1, 40)


def rows(latents: int, seed: int, d_in: int = 6) -> Tensor:
    """Of any norm."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(latents, d_in, generator=generator) * (0.1 + 5 * torch.rand(latents, 1, generator=generator))


@settings(max_examples=30)
@given(SIZES, SIZES, st.integers(0, 10**6))
def test_each_latent_has_the_closest_and_mutual_is_what_both_say(latents: int, others: int, seed: int) -> None:
    one, other = rows(latents, seed), rows(others, seed + 1)
    cosine_FG = F.cosine_similarity(one.double()[:, None], other.double()[None], dim=2)
    found = best_matches(range(latents), one, other)
    for latent, match in found.items():
        assert match.latent == int(cosine_FG[latent].argmax())
        assert match.cosine == pytest.approx(cosine_FG[latent].max().item(), abs=1e-6)
        assert match.mutual == (int(cosine_FG[:, match.latent].argmax()) == latent)
    assert list(found) == list(range(latents))


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_permuting_and_scaling_the_others_permutes_the_pairs(others: int, seed: int) -> None:
    one, other = rows(20, seed), rows(others, seed + 1)
    order_G = torch.randperm(others, generator=torch.Generator().manual_seed(seed))
    before = best_matches([3, 17], one, other)
    after = best_matches([3, 17], one, 7 * other[order_G])
    moved = {latent: int(order_G[match.latent]) for latent, match in after.items()}
    assert moved == {latent: match.latent for latent, match in before.items()}
    assert [match.mutual for match in after.values()] == [match.mutual for match in before.values()]


def test_an_sae_beside_itself_pairs_every_latent_with_itself_but_those_without_a_row() -> None:
    one = rows(300, 0)
    one[[5, 299]] = 0
    found = best_matches(range(300), one, one)
    assert found.keys() == set(range(300)) - {5, 299}
    assert all(match.latent == latent and match.mutual and match.alike for latent, match in found.items())


def test_many_latents_are_compared_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = rows(50, 0), rows(70, 1)
    whole = best_matches(range(50), one, other)
    monkeypatch.setattr(pairing, "_AT_ONCE", 100)
    few = best_matches(range(50), one, other)
    assert {latent: (match.latent, match.mutual) for latent, match in few.items()} == {
        latent: (match.latent, match.mutual) for latent, match in whole.items()
    }


def test_from_a_cosine_of_seven_tenths_on_a_latent_is_there() -> None:
    assert Match(0, 0.7, True).alike and not Match(0, 0.69, True).alike
    assert best_matches([], rows(3, 0), rows(3, 1)) == {}
