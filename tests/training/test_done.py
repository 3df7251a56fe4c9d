"""A run that says it is done is looked at: what can be had again is, to the same bits; nothing is trained silently."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from masked_sae.errors import DamagedFileError
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import read_state
from masked_sae.training import train_pack as training
from masked_sae.training.train_run import train_run
from support.composing import small_config

WEIGHTS = "sae_weights.safetensors"


@pytest.fixture(scope="module", params=["matryoshka", "jumprelu"])  # with a k, and calibrated to the training's L0
def whole(
    request: pytest.FixtureRequest, neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    out = tmp_path_factory.mktemp("whole")
    overrides = [f"sae={request.param}", "eval.families=[core]", f"eval.cache_dir={out / 'cache'}"]
    run = make_run(small_config(neox_folder, corpus_folder, out, *overrides), {})
    assert train_run(run).status == "done"
    return run


@pytest.fixture
def run(whole: Run, tmp_path: Path) -> Run:
    """A copy of it, to be damaged."""
    moved = make_run(replace(whole.config, output_dir=str(tmp_path)), {})
    shutil.copytree(whole.folder.path, moved.folder.path)
    return moved


def contents(folder: RunFolder) -> dict[str, bytes]:
    kept = [*folder.sae.glob("*"), *folder.checkpoints.glob("*")]
    return {str(path.relative_to(folder.path)): path.read_bytes() for path in kept}


def metrics(folder: RunFolder) -> dict[str, float]:
    return json.loads(folder.results.read_text())["metrics"]


def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a step is taken, or asked for."""

    def fit(members: Any, *others: Any) -> None:
        assert not any(member.is_training for member in members), "it trained"
        fitted(members, *others)

    fitted = training.fit
    monkeypatch.setattr(training, "fit", fit)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def other_weights(path: Path) -> None:
    weights = load_file(path)
    save_file({name: tensor * 2 for name, tensor in weights.items()}, path)


def test_a_whole_one_is_left_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    untrained(monkeypatch)
    written = {path: path.stat().st_mtime_ns for path in run.folder.path.rglob("*")}
    assert train_run(run).status == "done"
    assert {path: path.stat().st_mtime_ns for path in run.folder.path.rglob("*")} == written


DAMAGES: dict[str, Callable[[RunFolder], object]] = {
    "sae/ gone": lambda folder: shutil.rmtree(folder.sae),
    "weights cut": lambda folder: cut(folder.sae / WEIGHTS),
    "weights flipped": lambda folder: flipped(folder.sae / WEIGHTS),
    "other weights": lambda folder: other_weights(folder.sae / WEIGHTS),
    "weights gone": lambda folder: (folder.sae / WEIGHTS).unlink(),
    "cfg.json cut": lambda folder: cut(folder.sae / "cfg.json"),
    "cfg.json empty": lambda folder: (folder.sae / "cfg.json").write_bytes(b""),
    "results gone": lambda folder: folder.results.unlink(),
    "results cut": lambda folder: cut(folder.results),
    "results empty": lambda folder: folder.results.write_bytes(b""),
    "other results": lambda folder: folder.results.write_text(
        folder.results.read_text().replace('"core/l0": ', '"core/l0": 1')
    ),
    "results of another type": lambda folder: folder.results.write_text("[1]"),
    "family cut": lambda folder: cut(folder.family("core")),
    "family of another type": lambda folder: folder.family("core").write_text('{"metrics": {"l0": "x"}}'),
    "evals/ gone": lambda folder: shutil.rmtree(folder.evals),
    "state gone": lambda folder: folder.state.unlink(),
    "state cut": lambda folder: cut(folder.state),
    "state binary": lambda folder: folder.state.write_bytes(bytes(range(256))),
    "config cut": lambda folder: cut(folder.config),
    "config gone": lambda folder: folder.config.unlink(),
    "config of another type": lambda folder: folder.config.write_text("[1]"),
    "curve cut": lambda folder: folder.metrics.write_text("step,tokens,l0\n2,128,3.5\n4,25"),
    "state and curve gone": lambda folder: (folder.state.unlink(), folder.metrics.unlink()),
    "sae/ and curve gone": lambda folder: (shutil.rmtree(folder.sae), folder.metrics.unlink()),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_had_again_to_the_same_bits_without_training(
    damage: str, run: Run, whole: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained(monkeypatch)
    DAMAGES[damage](run.folder)
    capsys.readouterr()
    assert train_run(run).status == "done"
    assert contents(run.folder) == contents(whole.folder)
    assert metrics(run.folder) == metrics(whole.folder)
    state = read_state(run.folder.state)
    assert state is not None and state.status == "done"
    configs = [{**read_config(one.folder.config), "output_dir": ""} for one in (run, whole)]
    assert configs[0] == configs[1]
    if damage not in ("curve cut", "evals/ gone", "state gone"):
        assert "note: " in capsys.readouterr().err
    assert train_run(run).status == "done"
    assert capsys.readouterr().err == "" or damage == "curve cut"


@pytest.mark.parametrize("damage", ["sae/ gone", "weights cut", "weights flipped", "state cut"])
def test_where_the_checkpoint_is_gone_too_it_is_one_line_and_no_training(
    damage: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained(monkeypatch)
    shutil.rmtree(run.folder.checkpoints)
    DAMAGES[damage](run.folder)
    with pytest.raises(DamagedFileError, match="force=true trains it again"):
        train_run(run)


def test_a_curve_that_was_cut_does_not_reach_the_sae(run: Run, whole: Run) -> None:
    """JumpReLU was calibrated to whatever row came last."""
    shutil.rmtree(run.sae)
    rows = run.folder.metrics.read_text().splitlines(keepends=True)
    run.folder.metrics.write_text("".join(rows[:3]))
    train_run(run)
    assert contents(run.folder) == contents(whole.folder)


def test_leftovers_of_a_kill_are_removed(run: Run) -> None:
    left = [
        run.folder.path / ".state.json.abc12345",
        run.folder.path / ".results.json.abc12345",
        run.folder.evals / ".core.json.abc12345",
        run.folder.checkpoints / "..next.safetensors.abc12345",
    ]
    for path in left:
        path.write_bytes(b"half")
    (run.folder.path / ".sae.abc12345").mkdir()
    shutil.copy(run.folder.checkpoints / "last.safetensors", run.folder.checkpoints / ".next.safetensors")
    shutil.rmtree(run.sae)
    train_run(run)
    hidden = sorted(path.name for path in run.folder.path.rglob(".*"))
    assert hidden == [".lock"]
