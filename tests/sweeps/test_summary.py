"""Tables of runs: with damaged ones among them, and with values that a terminal or `rich` would obey."""

import json
from pathlib import Path

import pytest

from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import RunState, write_state
from masked_sae.runs.sweep_record import Member, damage_of, forget_members, read_members, record_members
from masked_sae.sweeps.status import show_status
from masked_sae.sweeps.summary import print_members

DAMAGE = (b"", b"{", b"[]", b"7", b"null", b"\xff\xfe\x00", b'{"metrics": 3}', b'{"metrics": {"core/l0": "x"}}')


def made(sweep: Path, name: str, value: str) -> Member:
    member = Member(RunFolder(sweep / name), {"data.path": value})
    write_state(member.folder.state, RunState(name, "done", step=4, steps=4, tokens=256, seconds=1.0))
    member.folder.results.write_text(json.dumps({"metrics": {"core/l0": 4.0}}))
    return member


@pytest.mark.parametrize("value", ["[/a/path]", "[red]", "[/]", "a\x1b[31mb", "[link=x]y"])
def test_a_swept_value_is_shown_as_it_is(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [made(tmp_path, "a", value)]
    record_members(tmp_path, members)
    shown_value = value.replace("\x1b", "\\x1b")
    print_members(members)
    assert shown_value in capsys.readouterr().out
    show_status(tmp_path, None)
    assert shown_value in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["state.json", "results.json", "sweep.json"])
def test_a_damaged_file_is_named_and_the_other_runs_are_shown(
    file: str, damage: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [made(tmp_path, name, name) for name in ("first", "second")]
    record_members(tmp_path, members)
    path = tmp_path / file if file == "sweep.json" else members[0].folder.path / file
    if file == "sweep.json" and b"metrics" in damage:
        damage = b'{"members": [1]}'
    path.write_bytes(damage)
    print_members(members)
    said = capsys.readouterr().out
    assert "second" in said and ((file == "state.json" and b"metrics" in damage) or f"{path} is damaged" in said)
    show_status(tmp_path, None)
    said = capsys.readouterr().out
    assert "second" in said and "done" in said
    if file != "results.json":
        assert f"{path} is damaged" in said.replace("\n", "") or "damaged" in said


def test_a_folder_in_the_place_of_a_state_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a" / "state.json").mkdir(parents=True)
    print_members([Member(RunFolder(tmp_path / "a"), {})])
    assert "damaged" in capsys.readouterr().out


def test_a_damaged_record_is_kept_aside_and_said_and_the_members_are_those_with_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = made(tmp_path, "a", "1"), Member(RunFolder(tmp_path / "b"), {"data.path": "2"})
    (tmp_path / "sweep.json").write_text('{"members": ')
    assert damage_of(tmp_path) is not None
    assert [member.folder.run_id for member in read_members(tmp_path)] == ["a"]
    record_members(tmp_path, [second], ["seed=1"])
    assert f"kept as {tmp_path}/sweep.json.damaged" in capsys.readouterr().err
    assert (tmp_path / "sweep.json.damaged").read_text() == '{"members": '
    assert {member.folder.run_id for member in read_members(tmp_path)} == {"a", "b"}
    record_members(tmp_path, [first])
    assert read_members(tmp_path)[0].swept == {"data.path": "1"}


def test_members_that_are_known_are_not_written_again(tmp_path: Path) -> None:
    """A sweep that is done may lie where nothing can be written."""
    members = [made(tmp_path, "a", "1")]
    record_members(tmp_path, members, ["seed=1"], {"data.path": "text"})
    (tmp_path / ".sweep.lock").unlink()
    before = (tmp_path / "sweep.json").stat()
    record_members(tmp_path, members, ["seed=1"], {"data.path": "text"})
    after = (tmp_path / "sweep.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not (tmp_path / ".sweep.lock").exists()


def test_members_that_came_to_nothing_are_forgotten_and_others_not(tmp_path: Path) -> None:
    there, gone = made(tmp_path, "a", "1"), Member(RunFolder(tmp_path / "b"), {"data.path": "2"})
    record_members(tmp_path, [there, gone], ["seed=1"])
    forget_members(tmp_path, ["a", "b"], ["seed=1"])
    assert [member.folder.run_id for member in read_members(tmp_path)] == ["a"]
