"""The commands that the report gives are those that were given."""

import json
from pathlib import Path

import pytest

from masked_sae.report.reproduce import reproduce
from masked_sae.report.runs_table import read_runs
from masked_sae.runs.sweep_record import record_members
from support.made_sweeps import ATTEMPT, make_sweep

SMALL = {"rates": (0.0, 0.1), "ks": (8,), "seeds": (0,)}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["+sweep=mask_rate", "sae.k=4,8"], "python -m src.train +sweep=mask_rate sae.k=4,8 -m"),
        (
            ["+sweep=seeds", "data.path='[a b,c]'"],
            "python -m src.train +sweep=seeds 'data.path='\"'\"'[a b,c]'\"'\"'' -m",
        ),
        (["--config-dir", "/my/conf", "sae=mine"], "python -m src.train --config-dir /my/conf sae=mine -m"),
        (
            ["output_dir=/somewhere", "trainer.threads=2", "+sweep=seeds", "force=true"],
            "python -m src.train +sweep=seeds -m",
        ),
    ],
)
def test_a_sweep_is_told_as_it_was_asked_for_without_where_and_how(
    tmp_path: Path, given: list[str], shown: str
) -> None:
    sweep = tmp_path / "sweep"
    record_members(sweep, make_sweep(sweep, **SMALL), given)
    assert reproduce(read_runs([sweep]), [sweep]).sweeps == (shown,)


def test_each_command_of_a_sweep_is_told_once(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    members = make_sweep(sweep, **SMALL)
    for command in (["sae.k=8"], ["sae.k=8"], ["sae.k=8", "force=true"], ["sae.k=8,16"]):
        record_members(sweep, members, command)
    assert [line.split()[3] for line in reproduce(read_runs([sweep]), [sweep]).sweeps] == ["sae.k=8", "sae.k=8,16"]


def test_a_sweep_without_a_record_of_its_command_has_none(tmp_path: Path) -> None:
    make_sweep(tmp_path, **SMALL)
    assert reproduce(read_runs([tmp_path]), [tmp_path]).sweeps == ()


def test_runs_that_went_on_under_other_code_are_named(tmp_path: Path) -> None:
    members = make_sweep(tmp_path, **SMALL)
    assert reproduce(read_runs([tmp_path]), [tmp_path]).codes == ""
    run, other = (member.folder for member in members)
    run.attempts.write_text(json.dumps([ATTEMPT | {"code": code} for code in ("aa", "bb", "bb")]))
    other.attempts.write_text(json.dumps([ATTEMPT, ATTEMPT | {"code": "aa"}]))  # the first by an older version
    codes = reproduce(read_runs([tmp_path]), [tmp_path]).codes
    assert codes == f"Went on under other code than they were begun with (code=current): {run.run_id}."


def test_runs_and_attempts_with_other_numbers_of_threads_are_named_in_one_line(tmp_path: Path) -> None:
    members = make_sweep(tmp_path, rates=(0.0, 0.1), ks=(8,), seeds=(0, 1, 2))
    assert reproduce(read_runs([tmp_path]), [tmp_path]).threads == ""
    one, several = members[1].folder, members[4].folder
    one.attempts.write_text(json.dumps([ATTEMPT | {"threads": 1}]))
    several.attempts.write_text(json.dumps([ATTEMPT, ATTEMPT | {"threads": 4}]))
    assert reproduce(read_runs([tmp_path]), [tmp_path]).threads == (
        "4 of 6 runs were trained with 2 CPU threads; with another number, or with several, so bits may differ by "
        f"round-off: {one.run_id} (1), {several.run_id} (2 then 4)."
    )
