"""What processes that train together say to one another."""

from collections.abc import Generator

import pytest
import torch

from masked_sae.ranks import ALONE, Ranks
from masked_sae.saes.topk_family import keep_largest
from support.ranks import Processes, processes


@pytest.fixture(scope="module")
def three() -> Generator[Processes]:
    with processes(3) as found:
        yield found


def test_everybody_learns_the_same_of_all(three: Processes) -> None:
    told = three.call("every_method")
    for one in told:
        assert one["sum"].tolist() == [6, -3]
        assert one["mean"].tolist() == [2, -1]
        assert one["least"].tolist() == [1, -2]
        assert one["any"].tolist() == [True, True, True, False]
        assert one["gather"].flatten().tolist() == [0, 0, 1, 1, 2, 2]
        assert one["from_first"].tolist() == [7, 8]
        assert one["tell"] == [{"rank": rank, "words": "é" * rank} for rank in range(3)]
    assert [one["unchanged"].tolist() for one in told] == [[1, 0], [2, -1], [3, -2]]


def test_alone_everything_is_as_it_was() -> None:
    x = torch.tensor([[1.0, -2.0]])
    for told in (ALONE.sum(x), ALONE.mean(x), ALONE.least(x), ALONE.any(x), ALONE.gather(x), ALONE.from_first(x)):
        assert told is x
    assert ALONE.tell("words") == ["words"]


@pytest.mark.parametrize("size", [0, 1, 5, 12])
def test_shares_are_all_there_is_in_order(size: int) -> None:
    things = list(range(size))
    assert [one for rank in range(5) for one in things[Ranks(rank, 5).share(size)]] == things


@pytest.mark.parametrize("starts", [[0, 4, 7, 12], [0, 0, 12, 12], [0, 12, 12, 12]])
def test_rows_come_to_those_who_want_them_in_their_order(three: Processes, starts: list[int]) -> None:
    generator = torch.Generator().manual_seed(len(starts) + starts[1])
    rows = torch.randn(12, 2, generator=generator)
    wanted = [torch.randint(0, 12, (size,), generator=generator) for size in (9, 0, 4)]  # some twice, some never
    for found, want in zip(three.call("exchange", rows, starts, wanted), wanted, strict=True):
        assert torch.equal(found, rows[want])


@pytest.mark.parametrize("k", [1, 5, 11, 20])
def test_the_largest_of_all_ranks_are_those_of_one_list(three: Processes, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    rows = torch.randint(-3, 4, (4, 30), generator=generator).float()  # many are equal
    kept = torch.cat(three.call("kept_of_all", rows, k, False), dim=1)
    assert torch.equal(kept, keep_largest(rows, k))


def test_the_largest_of_all_ranks_are_found_with_static_shapes(three: Processes) -> None:
    rows = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(three.call("kept_of_all", rows, 5, True), dim=1), keep_largest(rows, 5))


def test_parts_of_the_first_ranks_come_back_to_it(three: Processes) -> None:
    whole = torch.arange(12).view(6, 2)
    parts, back = zip(*three.call("there_and_back", whole), strict=True)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(back[0], whole) and back[1:] == (None, None)
