"""What was measured is read as what it should be, or refused with the file's name."""

import json
from pathlib import Path
from typing import Any

import pytest

from masked_sae.errors import DamagedFileError
from masked_sae.files import write_json
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import read_family, read_own, read_results, write_results

FAMILY: dict[str, Any] = {"settings": {"tokens": 1}, "metrics": {"l0": 3.0}, "notes": {"x": "why"}, "details": {}}


def test_results_are_made_of_the_families_and_read_as_they_were_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.family("core"), FAMILY)
    write_results(folder, {"lm": {"name": "a"}}, {"masks": {}})
    found = read_results(folder)
    assert (found.metrics, found.notes) == ({"core/l0": 3.0}, {"core/x": "why"})
    assert (found.config, found.own, found.reference) == ({"lm": {"name": "a"}}, {"masks": {}}, None)
    write_results(folder, {"reference": {"origin": "there"}, "lm": {}})
    found = read_results(folder)
    assert found.reference == {"origin": "there"} and found.config == {"lm": {}}
    assert found.own == {"masks": {}} == read_own(folder)  # kept


@pytest.mark.parametrize(
    "change",
    [{"settings": 3}, {"metrics": {"l0": "3"}}, {"metrics": {"l0": None}},
     {"metrics": {"l0": 1e308}}, {"metrics": {"l0": True}}, {"notes": {"x": 1}}, {"notes": []}, {"details": [1]},
     {"words": {}}, {"metrics": {"l0": 10**400}}, {"metrics": {"l0": float("nan")}}],
)  # fmt: skip
def test_a_damaged_family_is_never_left_out_in_silence(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path)
    folder.evals.mkdir()
    for key in ("settings", "metrics", "notes", "details"):
        whole = {one: value for one, value in FAMILY.items() if one != key}
        folder.family("core").write_text(json.dumps(whole))
        with pytest.raises(DamagedFileError, match=f"has no {key}"):
            read_family(folder, "core")
    folder.family("core").write_text(json.dumps(FAMILY | change))
    for act in (lambda: read_family(folder, "core"), lambda: write_results(folder, {})):
        with pytest.raises(DamagedFileError, match=r"evals/core\.json is damaged \("):
            act()
    assert not folder.results.exists()


def test_what_is_not_there_is_told_from_what_is_damaged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_family(folder, "core") is None and read_own(folder) == {}
    with pytest.raises(FileNotFoundError):
        read_results(folder)
