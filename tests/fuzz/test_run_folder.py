"""Whatever befalls the files of a run: it ends in the bits that it had, or one line says what is wrong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file

from masked_sae.command_line import explain
from masked_sae.report.design import read_design
from masked_sae.report.findings import find
from masked_sae.report.runs_table import read_runs
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.sweep_record import record_members
from masked_sae.sweeps.status import view
from masked_sae.sweeps.summary import print_members
from masked_sae.training.train_run import train_run
from support.composing import small_config
from support.damage import Damage, damages
from support.processes import killed_after

QUICK, LONG = 12, 120
EVERYWHERE = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def done(neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("whole")
    overrides = ["sae=jumprelu", "eval.families=[core]", f"eval.cache_dir={out / 'cache'}"]
    run = make_run(small_config(neox_folder, corpus_folder, out, *overrides), {})
    assert train_run(run).status == "done"
    record_members(run.folder.path.parent, [run])
    return run


@pytest.fixture(scope="module")
def half_way(done: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Killed between two checkpoints."""
    config = replace(done.config, output_dir=str(tmp_path_factory.mktemp("half")))
    assert 12 <= killed_after(config, at_step=12) < 24
    return make_run(config, {})


def survives(run: Run, done: Run, place: Path, which: float, damage: Damage) -> None:
    """Whatever befalls one of its files, all that reads them goes on, and the run ends in the same bits."""
    shutil.rmtree(place, ignore_errors=True)
    moved = make_run(replace(run.config, output_dir=str(place)), {})
    shutil.copytree(run.folder.path, moved.folder.path)
    sweep = moved.folder.path.parent
    record_members(sweep, [moved])
    files = sorted(path for path in sweep.rglob("*") if path.is_file() and not path.name.startswith(".lock"))
    path = files[min(int(which * len(files)), len(files) - 1)]
    damage.do(path)
    is_read(sweep, moved)
    try:
        train_run(moved)
    except Exception as error:  # noqa: BLE001 - what it may be is looked at
        line = explain(error)
        assert line is not None and "\n" not in line, f"{path.name}: {damage}"
        assert str(place) in line
        return
    is_read(sweep, moved)
    weights, others = (load_file(one.sae / "sae_weights.safetensors") for one in (moved, done))
    assert all((tensor == others[name]).all() for name, tensor in weights.items()), f"{path.name}: {damage}"
    assert metrics(moved.folder) == metrics(done.folder), f"{path.name}: {damage}"


def is_read(sweep: Path, run: Run) -> None:
    """Status, table and report."""
    Console(quiet=True).print(view(sweep))
    print_members([run])
    runs = read_runs([sweep])
    find(runs, read_design(runs))


def metrics(folder: RunFolder) -> dict[str, float]:
    return json.loads(folder.results.read_text())["metrics"]


@pytest.mark.slow
@settings(max_examples=QUICK, **EVERYWHERE)
@given(st.floats(0, 1), damages)
def test_of_a_run_that_is_done(done: Run, tmp_path: Path, which: float, damage: Damage) -> None:
    survives(done, done, tmp_path / "runs", which, damage)


@pytest.mark.slow
@settings(max_examples=QUICK, **EVERYWHERE)
@given(st.floats(0, 1), damages)
def test_of_one_that_was_killed(half_way: Run, done: Run, tmp_path: Path, which: float, damage: Damage) -> None:
    survives(half_way, done, tmp_path / "runs", which, damage)


@pytest.mark.long
@pytest.mark.timeout(1200)
@settings(max_examples=LONG, **EVERYWHERE)
@given(st.booleans(), st.floats(0, 1), damages)
def test_of_either_at_length(
    done: Run, half_way: Run, tmp_path: Path, ended: bool, which: float, damage: Damage
) -> None:
    survives(done if ended else half_way, done, tmp_path / "runs", which, damage)
