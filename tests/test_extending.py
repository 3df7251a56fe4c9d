"""Somebody's own architecture, mask and metric, from a folder of their own, as docs/extending.md has them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import read_state
from support.composing import small_overrides
from support.extending import examples, outside, write_examples
from support.making import ROOT
from support.processes import assert_same_run

# What the settings of small runs leave to the example.
OWN = ("sae.k=", "sae.aux_k=", "eval.tokens=")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_examples(tmp_path / "my_project")


def small(lm: Path, corpus: Path, out: Path) -> list[str]:
    return [setting for setting in small_overrides(lm, corpus, out) if not setting.startswith(OWN)]


def run(project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=project,
        env=os.environ | outside(),
        text=True,
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_page_has_the_files_it_speaks_of() -> None:
    assert sorted(examples()) == [
        "conf/eval/mine.yaml",
        "conf/mask/swap.yaml",
        "conf/sae/log_relu.yaml",
        "conf/sweep/mine.yaml",
        "my_package/my_mask.py",
        "my_package/my_metric.py",
        "my_package/my_sae.py",
    ]


def test_the_page_counts_their_lines_right() -> None:
    text = (ROOT / "docs" / "extending.md").read_text()
    pairs = {
        "architecture": ("my_package/my_sae.py", "conf/sae/log_relu.yaml"),
        "mask": ("my_package/my_mask.py", "conf/mask/swap.yaml"),
        "family of metrics": ("my_package/my_metric.py", "conf/eval/mine.yaml"),
    }
    for kind, names in pairs.items():
        lines = " + ".join(str(len(examples()[name].splitlines())) for name in names)
        assert f"| {kind} | 1 Python, 1 YAML, 1 test | {lines} + test |" in text


@pytest.mark.slow
def test_they_are_swept_resumed_evaluated_and_reported(
    project: Path, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    settings = small(neox_folder, corpus_folder, tmp_path)
    run(project, "src.train", "--config-dir", "conf", *settings, "+sweep=mine", "-m")
    sweep = tmp_path / "runs" / "mine"
    members = {path.parent.name.split("-")[0]: RunFolder(path.parent) for path in sweep.glob("*/results.json")}
    assert members.keys() == {"rate0.0", "rate0.2"}
    record = json.loads((sweep / "sweep.json").read_text())
    assert (
        record["commands"][0][:2] == ["--config-dir", str(project / "conf")] and "+sweep=mine" in record["commands"][0]
    )
    assert record["labels"] == {"mask.swap.rate": "swap rate"}
    for folder in members.values():
        results = json.loads(folder.results.read_text())
        assert results["metrics"]["co_activation/jaccard"] > 0 and results["metrics"]["core/l0"] > 0
        assert results["config"]["sae"]["_module_"] == "my_package.my_sae"
        (attempt,) = read_attempts(folder.attempts)
        assert attempt.modules.keys() == {"my_package.my_mask", "my_package.my_metric", "my_package.my_sae"}
        assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in attempt.modules.values())
    assert_a_killed_run_resumes(project, settings, members["rate0.2"], tmp_path / "again")
    assert_evaluated_later_by_one_who_has_no_such_modules(sweep, members["rate0.2"], tmp_path)
    page = Path(run(ROOT, "src.report", f"sweep={sweep}").stdout.strip()).read_text()
    assert "swap rate 0.2" in page and "Co-activation" in page
    assert "python -m src.train" in page and "+sweep=mine" in page


def assert_a_killed_run_resumes(project: Path, settings: list[str], undisturbed: RunFolder, out: Path) -> None:
    given = [setting for setting in settings if not setting.startswith("output_dir=")]
    one = ["sae=log_relu", "mask=swap", "mask.swap.rate=0.2", "mask.token.rate=0", "eval=mine", f"output_dir={out}"]
    command = [sys.executable, "-m", "src.train", "--config-dir", "conf", *given, *one]
    process = subprocess.Popen(command, cwd=project, env=os.environ | outside(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(out.glob("train/*/checkpoints/last.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run(project, *command[2:])
    (folder,) = [RunFolder(path.parent) for path in out.glob("train/*/results.json")]
    assert folder.run_id.split("-")[-1] == undisturbed.run_id.split("-")[-1]  # the same experiment
    assert_same_run(folder, undisturbed)


def assert_evaluated_later_by_one_who_has_no_such_modules(sweep: Path, folder: RunFolder, tmp_path: Path) -> None:
    """Nothing is imported that a folder names; what the results told of masks stays."""
    before = json.loads(folder.results.read_text())
    run(ROOT, "src.evaluate", f"sweep={sweep}", "eval=quick", "eval.families=[core]", "eval.tokens=200")
    after = json.loads(folder.results.read_text())
    assert after["metrics"]["core/tokens"] < before["metrics"]["core/tokens"]
    assert after["own"] == before["own"] and after["config"]["sae"] == before["config"]["sae"]
    assert after["metrics"]["co_activation/jaccard"] == before["metrics"]["co_activation/jaccard"]
    state = read_state(folder.state)
    assert state is not None and state.status == "done"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["sae.price_scale=0"], "error: sae.price_scale=0.0: expected a number above 0"),
        (["+sae.k=3"], "error: sae.k=3: expected none, as log_relu has no such setting: choose it"),
        (["+sae.price=3"], "error: sae.price: no such key"),
        (["sae._module_=my_package.nothing"], "error: sae._module_=my_package.nothing: expected a module"),
        (
            ["sae._module_=my_package.my_metric", "~sae.price_scale"],
            "error: sae._module_=my_package.my_metric: expected a module with Settings of",
        ),
        (["mask.swap.rate=2"], "error: mask.swap.rate=2.0: expected a number from 0 to 1"),
        (["eval.own.co_activation.fewest=0"], "error: eval.own.co_activation.fewest=0: expected at least 1"),
        (["eval.families=[core,other]"], "error: eval.families=other: expected one of absorption, core"),
    ],
)
def test_mistakes_in_them_are_told_in_one_line(project: Path, settings: list[str], line: str) -> None:
    chosen = ["sae=log_relu", "mask=swap", "eval=mine", *settings]
    refused = subprocess.run(
        [sys.executable, "-m", "src.train", "--config-dir", "conf", *chosen],
        cwd=project,
        env=os.environ | outside(),
        text=True,
        capture_output=True,
        timeout=100,
    )
    assert refused.returncode == 2 and refused.stderr.startswith(line), refused.stderr
    assert len(refused.stderr.splitlines()) == 1
