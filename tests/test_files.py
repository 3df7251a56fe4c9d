import errno
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from masked_sae.errors import DamagedFileError
from masked_sae.files import (
    folder_aside,
    read_json,
    read_object,
    remove_all_leftovers,
    write_aside,
    write_json,
    write_new_json,
    write_text,
)
from support.disks import files_limited_to


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_write_aside_makes_parents_and_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "old")
    write_text(path, "newer ☕")
    assert contents(tmp_path) == {"a/b/file.txt": "newer ☕"}


@pytest.mark.parametrize("second_names", [True, False])
def test_a_new_file_is_of_one_of_those_that_write_it_at_once(
    tmp_path: Path, second_names: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not second_names:

        def refused(path: Path, target: Path) -> None:
            raise PermissionError(errno.EPERM, "as a file system without hard links says", str(path))

        monkeypatch.setattr(Path, "hardlink_to", refused)
    path, writers = tmp_path / "file.json", 8 if second_names else 1

    def write(number: int) -> list[int]:
        try:
            write_new_json(path, number)
        except FileExistsError:
            return []
        return [number]

    with ThreadPoolExecutor(writers) as threads:
        wrote = [number for one in threads.map(write, range(writers)) for number in one]
    assert [read_json(path)] == wrote and write(9) == []
    assert contents(tmp_path) == {"file.json": f"{wrote[0]}\n"}


def test_written_files_and_folders_have_ordinary_permissions(tmp_path: Path) -> None:
    """Temporary files are private; what is left is as readable as any other file of the user."""
    write_text(tmp_path / "file", "x")
    with folder_aside(tmp_path / "folder") as aside:
        write_text(aside / "inner", "x")
    (tmp_path / "ordinary").write_text("x")
    (tmp_path / "ordinary_folder").mkdir()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "ordinary_folder").stat().st_mode


@pytest.mark.parametrize("old", [None, "old"])
def test_the_old_content_stands_until_the_new_is_whole(old: str | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_text(old)
    before = contents(tmp_path)

    def write(aside: Path) -> None:
        aside.write_text("half of the n")
        assert (path.read_text() if path.exists() else None) == old
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_aside(path, write)
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with files_limited_to(10_000), pytest.raises(OSError) as info:
        write_text(tmp_path / "file", "x" * 100_000)
    assert info.value.errno == errno.EFBIG
    assert contents(tmp_path) == {"file": "old"}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with folder_aside(tmp_path / "made") as aside:
        (aside / "one").write_text("1")
        (aside / "deep").mkdir()
        (aside / "deep" / "two").write_text("2")
        assert not (tmp_path / "made").exists()
    assert contents(tmp_path) == {"made/one": "1", "made/deep/two": "2"}
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_is_replaced_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with folder_aside(made, replace=True) as aside:
        (aside / "old").write_text("old")
    (tmp_path / ".made.12345678").mkdir()  # left by a process that was killed
    with pytest.raises(RuntimeError, match="midway"), folder_aside(made, replace=True) as aside:
        (aside / "new").write_text("half of the n")
        raise RuntimeError("midway")
    assert contents(tmp_path) == {"made/old": "old"}
    with folder_aside(made, replace=True) as aside:
        (aside / "new").write_text("new")
        assert contents(made) == {"old": "old"}
    assert contents(made) == {"new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="midway"), folder_aside(tmp_path / "made") as aside:
        (aside / "one").write_text("1")
        raise RuntimeError("midway")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_folder(tmp_path: Path) -> None:
    with (
        files_limited_to(10_000),
        pytest.raises(OSError) as info,
        folder_aside(tmp_path / "made") as aside,
    ):
        (aside / "small").write_text("1")
        (aside / "large").write_bytes(b"x" * 100_000)
    assert info.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [1.0, float("-inf")]}])
def test_json_without_a_standard_meaning_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


def test_json_is_read_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, "☕"], "b": {"c": True}}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == value


def test_files_of_a_folder_have_the_mode_that_all_others_have(tmp_path: Path) -> None:
    """safetensors gives its owner alone a file."""
    before = os.umask(0o022)
    try:
        with folder_aside(tmp_path / "made") as aside:
            save_file({"w": torch.zeros(2)}, aside / "w.safetensors")
            (aside / "inner").mkdir()
            (aside / "inner" / "a.txt").write_text("a")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made").rglob("*")}
    assert modes == {"w.safetensors": 0o644, "inner": 0o755, "a.txt": 0o644}


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 200_000, b"\xff\xfe", b"1" * 10_000])
def test_json_that_is_none_is_refused_by_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=str(path)):
        read_json(path)
    path.write_text("[1]")
    assert read_json(path) == [1]
    with pytest.raises(DamagedFileError, match="a list where an object should be"):
        read_object(path)


def test_leftovers_of_all_files_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.json.abc_1234", ".b.abcdefgh", "a.json", ".lock", ".lock.owner", ".sweep.lock", ".hydra"):
        (tmp_path / name).write_text("")
    remove_all_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".hydra",
        ".lock",
        ".lock.owner",
        ".sweep.lock",
        "a.json",
    ]
