"""Windows that several processes make together are those of one, and each reads its share of the text."""

from pathlib import Path
from typing import Any

import pytest
import torch

from masked_sae.ranks import ALONE, Ranks
from support.ranks import Processes
from support.streaming import BATCH, BATCHES, STEPS, batches_of, counted_sequences

SHALLOW, DEEP = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
EVERY = list(range(STEPS))
MASK = {"rate": 0.3}


def assert_shares(found: list[dict[str, Any]], expected: list[Any], count: int) -> None:
    """Of each batch each rank has its rows, to round-off."""
    for rank, one in enumerate(found):
        for mine, whole in zip(one["batches"], expected, strict=True):
            for at_point, all_rows in zip(mine, whole, strict=True):
                for tensor, rows in zip(at_point, all_rows, strict=True):
                    torch.testing.assert_close(tensor, rows[Ranks(rank, count).share(BATCH)], rtol=1e-4, atol=1e-5)


def _is_spoilt(found: list[Any]) -> bool:
    return "NaN or infinity" in str(found[0][0])


def test_each_rank_has_its_rows_of_every_batch_at_every_point(two: Processes, neox_folder: Path) -> None:
    points = [DEEP, SHALLOW]
    expected = batches_of(ALONE, str(neox_folder), points, EVERY)
    assert_shares(two.call("windows", str(neox_folder), points, EVERY, {}), expected, 2)


@pytest.mark.parametrize("changes", [{}, {"target": "clean"}, {"loss_positions": "masked"}])
def test_masked_text_is_divided_too(two: Processes, neox_folder: Path, changes: dict[str, Any]) -> None:
    options = {"mask": MASK | changes}
    expected = batches_of(ALONE, str(neox_folder), [DEEP], [0, 5], **options)
    assert_shares(two.call("windows", str(neox_folder), [DEEP], [0, 5], options), expected, 2)


def test_a_rank_reads_its_share_of_the_sequences(two: Processes, neox_folder: Path) -> None:
    with counted_sequences() as read:
        batches_of(ALONE, str(neox_folder), [DEEP], [0])
    of_all = sum(read)
    shares = [one["sequences"] for one in two.call("windows", str(neox_folder), [DEEP], [0], {})]
    assert sum(shares) <= of_all + 2 and max(shares) - min(shares) <= 4, (shares, of_all)


def test_what_is_wrong_in_one_ranks_text_is_known_to_all(two: Processes, neox_folder: Path) -> None:
    folder = str(neox_folder)
    spoilt = [token for token in range(10, 250) if _is_spoilt(batches_of(ALONE, folder, [DEEP], [0], poisoned=token))]
    for token in spoilt[:: len(spoilt) // 4]:  # of one, both, or the other rank's sequences
        first, second = [one["batches"] for one in two.call("windows", folder, [DEEP], [0], {"poisoned": token})]
        assert first == second and _is_spoilt(first)


def test_windows_on_disk_are_written_by_the_first_and_read_for_all(
    two: Processes, neox_folder: Path, tmp_path: Path
) -> None:
    points, options = [DEEP, SHALLOW], {"cache_dir": str(tmp_path)}
    two.call("windows", str(neox_folder), points[:1], EVERY, options)
    assert len(list(tmp_path.glob("*/*.safetensors"))) == -(-STEPS // BATCHES)
    found = two.call("windows", str(neox_folder), points, EVERY, options)  # one is there, and one is not
    assert_shares(found, batches_of(ALONE, str(neox_folder), points, EVERY), 2)
    again = two.call("windows", str(neox_folder), points, EVERY, options)
    assert all(one["sequences"] <= 2 for one in again)  # of the second hook point, as it is looked at
    assert_shares(again, batches_of(ALONE, str(neox_folder), points, EVERY, cache_dir=str(tmp_path)), 2)
