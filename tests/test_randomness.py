import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masked_sae.randomness import numpy_generator, permute, torch_generator

SEEDS = st.integers(0, 2**40)


@settings(deadline=None)
@given(size=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 50))
def test_permute_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(size), size, seed, epoch).tolist()) == list(range(size))


@settings(deadline=None)
@given(data=st.data(), size=st.integers(1, 2**50), seed=SEEDS)
def test_permute_sends_each_index_by_itself(data: st.DataObject, size: int, seed: int) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    together = permute(indices, size, seed, 0)
    assert together.tolist() == [int(permute(np.array([i]), size, seed, 0)[0]) for i in indices]
    assert len(set(together.tolist())) == len(indices)
    assert ((together >= 0) & (together < size)).all()


def test_permute_leaves_its_argument_alone() -> None:
    indices = np.arange(100)
    permute(indices, 100, 0, 0)
    assert (indices == np.arange(100)).all()


@pytest.mark.parametrize("size", [100, 1024, 1025, 5000])
def test_orders_of_other_seeds_and_epochs_agree_as_often_as_chance(size: int) -> None:
    orders = [permute(np.arange(size), size, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1), (7, 3))]
    for a, b in itertools.combinations([np.arange(size), *orders], 2):
        assert (a == b).sum() <= 8  # of two random permutations it is Poisson with mean 1


def test_every_index_goes_everywhere_equally_often() -> None:
    size, draws = 10, 2000
    landed = np.stack([permute(np.arange(size), size, seed, 0) for seed in range(draws)])
    counts = np.stack([(landed == place).sum(0) for place in range(size)])
    chi_squared = ((counts - draws / size) ** 2 / (draws / size)).sum()
    freedom = (size - 1) ** 2
    assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5


def test_permute_needs_memory_for_its_argument_only() -> None:
    tracemalloc.start()
    permute(np.arange(1000), 10**12, 0, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    "draw",
    [
        lambda *args: numpy_generator(*args).random(2000),
        lambda *args: torch.rand(2000, generator=torch_generator(*args), dtype=torch.float64).numpy(),
    ],
    ids=["numpy", "torch"],
)
def test_generators_are_repeatable_and_independent_by_seed_purpose_and_index(draw) -> None:
    keys = [(seed, purpose, index) for seed in (0, 1) for purpose in ("shuffle", "token mask") for index in (0, 1)]
    draws = {key: draw(*key) for key in keys}
    for key in keys:
        assert (draw(*key) == draws[key]).all()
    for a, b in itertools.combinations(keys, 2):
        assert abs(np.corrcoef(draws[a], draws[b])[0, 1]) < 5 / 2000**0.5


def test_generators_leave_the_global_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    torch_generator(5, "shuffle", 3)
    assert torch.equal(torch.rand(3), expected)
