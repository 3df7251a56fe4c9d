"""A digest is of all of a file, remembered while the file is the same, and not longer."""

import hashlib
import os
from pathlib import Path

from masked_sae.digests import of_all, sha256


def test_it_is_of_every_byte_and_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, memory = tmp_path / "a", tmp_path / "memory"
    path.write_bytes(b"x" * 40_000_000)
    first = sha256(path, memory)
    assert first == hashlib.sha256(b"x" * 40_000_000).hexdigest() == sha256(path)
    (known,) = memory.iterdir()
    known.write_text("0" * 64)  # what is remembered is not computed again
    assert sha256(path, memory) == "0" * 64
    with path.open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"y")
    os.utime(path)
    assert sha256(path, memory) == hashlib.sha256(b"x" * 20_000_000 + b"y" + b"x" * 19_999_999).hexdigest()


def test_a_memory_that_is_damaged_or_cannot_be_written_costs_no_more_than_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    for content in (b"", b"\xff" * 64, b"short"):
        memory = tmp_path / "memory"
        sha256(path, memory)
        (known,) = memory.iterdir()
        known.write_bytes(content)
        assert sha256(path, memory) == sha256(path)
    assert sha256(path, path / "under a file") == sha256(path)


def test_a_copy_or_a_link_has_the_digest_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert sha256(tmp_path / "link", tmp_path / "m") == sha256(tmp_path / "a", tmp_path / "m")


def test_texts_are_told_apart_by_where_they_end() -> None:
    assert of_all(["ab", "c"]) != of_all(["a", "bc"]) != of_all(["abc"])
