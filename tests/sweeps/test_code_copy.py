"""The code of a sweep is copied once, with the users' modules that it names, and jobs import from there."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from masked_sae.errors import InputError
from masked_sae.runs.attempts import note_attempt
from masked_sae.runs.carried import carried, unpacked
from masked_sae.runs.code import code_digest
from masked_sae.runs.run import Run, make_run
from masked_sae.sweeps.code_copy import code_of
from support.composing import small_config

WHERE = "import json, masked_sae, mine, beside; print(json.dumps([m.__file__ for m in (masked_sae, mine, beside)]))"


@pytest.fixture
def run(neox_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Of a mask of somebody's own, in a folder of their own."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "beside.py").write_text("RATE = 0.0\n")
    (project / "mine.py").write_text(
        "from dataclasses import dataclass\nimport beside\nfrom masked_sae.masks.latent import Settings as Latent\n"
        "@dataclass(kw_only=True)\nclass Settings(Latent):\n    rate: float = beside.RATE\n"
    )
    monkeypatch.syspath_prepend(str(project))
    config = small_config(
        neox_folder, corpus_folder, tmp_path, "+mask.mine._module_=mine", "+mask.mine.rate=0.1", "sae=topk", "seed=3"
    )
    return make_run(config, {"seed": "3"})


def test_a_job_imports_from_the_copy_whatever_was_edited_since(run: Run, tmp_path: Path) -> None:
    (copy,) = code_of([run]).values()
    assert copy.code == code_digest() and code_of([run])[run.folder.path] == copy
    assert len(list(copy.path.parent.iterdir())) == 1
    assert {"src", "conf", "sweeps", "own", "code.json"} <= {path.name for path in copy.path.iterdir()}
    assert json.loads((copy.path / "code.json").read_text())["code"] == copy.code
    (tmp_path / "project" / "beside.py").write_text("RATE = 0.5\n")
    python = f"{sys.executable} -c '{WHERE}'"
    script = "; ".join([*copy.setup(tmp_path / "project"), python])
    said = subprocess.run(["bash", "-c", script], text=True, capture_output=True, cwd=tmp_path / "project", check=True)
    assert [Path(file).is_relative_to(copy.path) for file in json.loads(said.stdout)] == [True] * 3
    assert (copy.path / "own" / "beside.py").read_text() == "RATE = 0.0\n"
    assert (copy.path / "src" / "masked_sae" / "report" / "template.html").exists()


def test_a_job_carries_plain_values_that_make_the_same_run(run: Run) -> None:
    assert unpacked(json.loads(json.dumps(carried(run)))) == run
    forced = replace(run, config=replace(run.config, force=True))
    assert unpacked(carried(forced)) == run, "it was carried out where the job was submitted"


def test_a_run_keeps_the_code_that_it_was_trained_with(run: Run) -> None:
    (copy,) = code_of([run]).values()
    run.folder.checkpoints.mkdir(parents=True)
    note_attempt(run.folder.attempts, 0, torch.device("cpu"), {}, "another")
    with pytest.raises(InputError, match=r"^code=submitted: expected current, to go on with today's code"):
        code_of([run])
    about = copy.path.with_name("0123") / "code.json"
    about.parent.mkdir()
    about.write_text(json.dumps({"code": "another", "commit": ""}))
    assert code_of([run])[run.folder.path].path == about.parent
    for asked, found in (("current", copy.path), ("live", None)):
        other = replace(run, config=replace(run.config, code=asked))
        assert [one.path for one in code_of([other]).values()] == ([] if found is None else [found])
