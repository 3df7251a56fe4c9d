"""A run that goes on with another major version of the LM library says so, and keeps its name."""

import json
import shutil
from pathlib import Path

import pytest

from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.checkpoint import LAST
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lm_library import tell_of_other_lm_library
from masked_sae.runs.run import make_run
from masked_sae.training.train_run import train_run
from support.composing import small_config

LIBRARY = "transformer-lens"


def trained_with(folder: RunFolder, *versions: str | None) -> None:
    """Has the record say that an attempt was made with each; None: with one that noted none."""
    entry = {"began": "", "step": 0, "commit": "", "device": "", "threads": 1}
    noted = [{} if version is None else {LIBRARY: version} for version in versions]
    folder.attempts.write_text(json.dumps([entry | {"versions": versions} for versions in noted]))


@pytest.mark.parametrize(
    ("versions", "here", "told"),
    [
        (["3.9.0"], "4.3.0", "3.9.0"),
        (["4.0.1"], "3.9.0", "4.0.1"),
        (["3.9.0", "4.0.1"], "4.3.0", None),
        (["3.9.0", "4.0.1"], "3.10.0", "4.0.1"),
        (["3.9.0"], "3.10.0rc1", None),
        (["9.0.0"], "10.0.0", "9.0.0"),
        ([None], "4.3.0", None),
        ([], "4.3.0", None),
    ],
)
def test_another_major_version_than_the_latest_attempts_is_told(
    versions: list[str | None],
    here: str,
    told: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = RunFolder(tmp_path)
    trained_with(folder, *versions)
    monkeypatch.setattr("masked_sae.runs.lm_library.version", lambda _: here)
    tell_of_other_lm_library(folder)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (told is not None)
    if told is not None:
        (line,) = lines
        assert line.startswith(f"note: {folder.run_id} goes on with {LIBRARY} {here}, but has been trained with {told}")


def test_a_run_goes_on_under_its_name_and_the_version_of_each_attempt_is_on_record(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(small_config(neox_folder, corpus_folder, tmp_path, "eval.families=[]"), {})
    train_run(run)
    assert LIBRARY not in capsys.readouterr().err
    (attempt,) = read_attempts(run.folder.attempts)
    major = int(attempt.software.versions[LIBRARY].partition(".")[0])
    trained_with(run.folder, f"{major - 1}.0.0")  # as if it had been interrupted, and the library changed since
    shutil.rmtree(run.folder.sae)
    (run.folder.checkpoints / LAST).unlink()
    state = json.loads(run.folder.state.read_text())
    run.folder.state.write_text(json.dumps(state | {"status": "preempted"}))
    again = make_run(small_config(neox_folder, corpus_folder, tmp_path, "eval.families=[]"), {})
    assert again.folder == run.folder
    assert train_run(again).status == "done"
    assert f"goes on with {LIBRARY} {attempt.software.versions[LIBRARY]}, but" in capsys.readouterr().err
    before, after = (one.software.versions[LIBRARY] for one in read_attempts(run.folder.attempts))
    assert (before, after) == (f"{major - 1}.0.0", attempt.software.versions[LIBRARY])
