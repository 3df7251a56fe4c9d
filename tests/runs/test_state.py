"""A run's state is read as one, or refused by its path."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from masked_sae.errors import DamagedFileError
from masked_sae.runs.state import RunState, read_state, write_state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_state(tmp_path / "state.json", RunState("a-1", "running", step=3, metrics={"l0": 4.5}))
    return tmp_path / "state.json"


def test_what_was_written_comes_back(path: Path, tmp_path: Path) -> None:
    state = read_state(path)
    assert state is not None and (state.run_id, state.status, state.step) == ("a-1", "running", 3)
    assert state.metrics == {"l0": 4.5} and state.host and state.updated
    assert read_state(tmp_path / "none.json") is None


def test_keys_of_another_version_are_passed_over(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": [1]}))
    assert read_state(path) is not None


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"3", b"{", b"{}", bytes(range(256)), b"[" * 200_000])
def test_what_is_no_state_is_refused_by_its_path(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=str(path)):
        read_state(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("status", value) for value in ("finished", None, [])],
        ("run_id", 3),
        *[("step", value) for value in ("3", -1, 1.5, True)],
        ("steps", 10**400),
        *[("seconds", value) for value in (float("nan"), 10**400, "x")],
        *[("updated", value) for value in ("yesterday", "2026-01-01")],
        *[("metrics", value) for value in ([], {"l0": "x"}, {"l0": None})],
        ("error", 3),
        ("job_id", 7),
    ],
)
def test_a_value_that_it_cannot_have_is_refused_by_its_name(path: Path, key: str, value: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(DamagedFileError, match=key):
        read_state(path)


def test_every_field_has_a_form(path: Path) -> None:
    for key in asdict(RunState("a", "created")):
        path.write_text(json.dumps({"run_id": "a", "status": "done", key: {"a": object.__name__}}))
        with pytest.raises(DamagedFileError, match=key):
            read_state(path)
