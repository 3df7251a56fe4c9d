"""Packs that a queue has no room for are each taken over by one job, which has them again when it is requeued."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from masked_sae.runs.asked_end import ask_to_end
from masked_sae.runs.folder import RunFolder
from masked_sae.sweeps import waiting
from masked_sae.sweeps.jobs import sent_jobs
from masked_sae.sweeps.submission import NoRoomError
from masked_sae.sweeps.waiting import Parcel, let_go, send, send_waiting, take_waiting, waiting_runs

SETTINGS = {"submitit_folder": "logs/%j"}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of three packs, one of other code, of which SLURM takes none."""

    def refused(*_: object) -> list[list[str]]:
        raise NoRoomError

    monkeypatch.setattr(waiting, "send_array", refused)
    monkeypatch.setattr(waiting, "array_sizes", lambda count: [count])
    parcels = [
        Parcel([{"folder": str(tmp_path / run)}], code, []) for run, code in [("a", "x"), ("b", "y"), ("c", "x")]
    ]
    send(parcels, SETTINGS, tmp_path, lambda parcel: [])
    return tmp_path


def names(folders: Sequence[Path] | set[Path]) -> list[str]:
    return sorted(folder.name for folder in folders)


def taken(sweep: Path, job_id: str) -> list[str]:
    found = take_waiting(sweep, "x", job_id)
    return [] if found is None else names(found.folders)


def test_each_is_taken_by_one_job_of_the_same_code_and_by_that_one_again(sweep: Path) -> None:
    assert names(waiting_runs(sweep)) == ["a", "b", "c"]
    assert (taken(sweep, "7"), taken(sweep, "8"), taken(sweep, "9")) == (["a"], ["c"], [])
    assert taken(sweep, "7") == ["a"], "it was requeued without a word, as by a node that died"
    assert names(waiting_runs(sweep)) == ["b"]
    assert [sent.ids for sent in sent_jobs(sweep)["a"]] == [("7",)]
    send_waiting(sweep, lambda parcel: [])  # the command looks for room, and there is none
    assert taken(sweep, "7") == ["a"]
    let_go(sweep, "7", done=True)
    let_go(sweep, "8", done=False)  # its time is up
    assert names(waiting_runs(sweep)) == ["b", "c"]
    assert (taken(sweep, "9"), taken(sweep, "7")) == (["c"], [])


def test_what_was_cancelled_meanwhile_is_left(sweep: Path) -> None:
    ask_to_end(RunFolder(sweep / "a"), "cancelled", "by hand")
    assert taken(sweep, "7") == ["c"]
