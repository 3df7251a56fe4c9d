"""Two machines with names, clocks and caches of their own, on one file system over NFS: see support/machines.py."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from support.machines import SHARED, WITHOUT_LOCKS, Machine, missing_programs, two_machines

pytestmark = [pytest.mark.slow, pytest.mark.long]

Pair = tuple[Machine, Machine]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, neox_tokenizer: Any) -> Generator[Pair]:
    """Three minutes ahead of the file server, and four behind it."""
    missing = missing_programs()
    if missing:
        reason = f"no {', '.join(missing)} here: install Debian's user-mode-linux, nfs-kernel-server and kmod"
        if os.environ.get("MASKED_SAE_REQUIRE_MACHINES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("machines")
    neox_tokenizer.save_pretrained(folder / "tokenizer")
    with two_machines(folder, clocks=(180, -240)) as pair:
        yield pair


def both(machines: Pair, duty: str, *arguments: str | int) -> list[Any]:
    return [asked.outcome() for asked in [machine.ask(duty, *arguments) for machine in machines]]


@pytest.mark.parametrize("shared", [SHARED, WITHOUT_LOCKS])
def test_of_two_that_take_a_run_at_once_one_has_it(machines: Pair, shared: Path) -> None:
    one, other = both(machines, "take_at_once", str(shared), rounds := 8)
    assert (one["had"] + other["had"], one["refused"] + other["refused"]) == (rounds, rounds)
    assert one["together"] == other["together"] == 0


@pytest.mark.parametrize("shared", [SHARED, WITHOUT_LOCKS])
def test_an_owner_that_lives_stays_and_a_dead_one_does_not_whatever_the_clocks(machines: Pair, shared: Path) -> None:
    holding, waiting = machines[1].ask("hold_and_die", str(shared)), machines[0].ask("wait_for_the_dead", str(shared))
    holding.outcome()
    waited = waiting.outcome()
    assert waited["after"] is not None and 0 < waited["silence"] < waited["after"] + 1 < 30
    assert waited["longest"] < 1
    assert waited["refusals"] and all("on other" in refusal for refusal in waited["refusals"])


def test_what_one_has_written_the_other_sees_at_once(machines: Pair) -> None:
    writing, reading = machines[0].ask("write_news", str(SHARED)), machines[1].ask("read_news", str(SHARED))
    writing.outcome()
    assert reading.outcome() == {"state": "done", "results": True, "asked": "pruned", "text": True}


def test_records_and_stores_that_both_make_at_once_are_whole(machines: Pair) -> None:
    one, other = both(machines, "make_at_once", str(SHARED), rounds := 6)
    assert one["members"] == other["members"] == [["one", "other"]] * rounds
    assert one["tokens"] == other["tokens"] and one["built"] + other["built"] == rounds
