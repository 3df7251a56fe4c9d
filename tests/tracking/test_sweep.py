"""What a whole sweep has shown: its table and plots, and the W&B run of their own that they arrive in.

Runs and W&B's client are real; the server is a recorder (wandb_recorder.py).
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from masked_sae.config import RunConfig
from masked_sae.runs.folder import RunFolder
from masked_sae.sweeps.evaluate import evaluate_folders
from masked_sae.sweeps.local import train_here
from masked_sae.tracking.server import wandb_id
from masked_sae.tracking.sweep import sweep_tables
from support.composing import small_config
from support.made_sweeps import break_members, make_sweep
from support.processes import SERVER, runs_at
from support.wandb_recorder import RecordedRun, WandbServer

pytestmark = pytest.mark.slow


def test_a_whole_sweep_is_a_table_and_a_line_for_each_mask_rate_against_l0(tmp_path: Path) -> None:
    measured = ["core/explained_variance", "tpp/top_20"]
    members = make_sweep(tmp_path, only=measured)
    shown = sweep_tables(tmp_path)
    assert list(shown) == ["pareto/core/explained_variance", "pareto/tpp/top_20", "sweep/runs"]
    table = shown["sweep/runs"]
    assert table.columns == ["run_id", "seed", "mask.token.rate", "sae.k", "core/l0", *measured]
    rows = pd.DataFrame(table.data, columns=table.columns)
    assert sorted(rows["run_id"]) == sorted(member.folder.run_id for member in members)
    results = json.loads(members[4].folder.results.read_text())["metrics"]
    (row,) = [row for row in table.data if row[0] == members[4].folder.run_id]
    assert row[-2:] == [results[key] for key in measured]
    line = shown["pareto/core/explained_variance"].table
    drawn = pd.DataFrame(line.data, columns=line.columns)
    means = rows.groupby(["mask.token.rate", "sae.k"])[["core/l0", "core/explained_variance"]].mean()
    assert len(drawn) == len(means) == 9
    assert sorted(drawn["step"]) == pytest.approx(sorted(means["core/l0"]))
    assert set(drawn["lineKey"]) == {"unmasked", "mask rate 0.1", "mask rate 0.2"}


def test_of_a_sweep_that_is_not_whole_nothing_is_drawn(tmp_path: Path) -> None:
    break_members(make_sweep(tmp_path))
    assert sweep_tables(tmp_path) == {}


def test_runs_that_no_sweep_holds_together_are_not_drawn(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    (tmp_path / "sweep.json").unlink()
    assert sweep_tables(tmp_path) == {}


def in_a_child(action: Callable[..., None], *arguments: Any, server: WandbServer, home: Path) -> int:
    """Its exit code. A process that has talked to W&B shares its service with what it starts later."""
    process = SERVER.Process(target=called, args=(action, arguments, server.environment(home)))
    process.start()
    try:
        process.join(120)
        assert process.exitcode is not None, "it does not end"
        return process.exitcode
    finally:
        process.kill()


def called(action: Callable[..., None], arguments: Any, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    action(*arguments)


def train_at(config: RunConfig, *rates: float) -> None:
    """A sweep on this machine, over the learning rate."""
    train_here(runs_at(config, *rates))


def folders(config: RunConfig, *rates: float) -> list[RunFolder]:
    return [run.folder for run in runs_at(config, *rates)]


def ids(config: RunConfig, *rates: float) -> list[str]:
    """W&B's, of the runs at these learning rates."""
    return [wandb_id(config.name, folder.run_id) for folder in folders(config, *rates)]


def table(run: RecordedRun, key: str) -> pd.DataFrame:
    """The latest under this key, from the file that the server was sent."""
    content = json.loads(run.files[run.history[-1][key]["path"]])
    return pd.DataFrame(content["data"], columns=content["columns"])


def metrics(folder: RunFolder) -> dict[str, float]:
    return json.loads(folder.results.read_text())["metrics"]


def test_a_sweep_is_logged_once_after_the_last_of_its_members_and_not_again_when_nothing_is_left_to_do(
    wandb_server: WandbServer, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    wanted = ["name=sweep", "logger.wandb.mode=online", "eval.families=[core]"]
    config = small_config(neox_folder, corpus_folder, tmp_path, *wanted)
    for _ in range(2):
        assert in_a_child(train_at, config, 1e-3, 2e-3, server=wandb_server, home=tmp_path) == 0
        runs = list(wandb_server.runs.values())  # by when they began
        assert [run.name for run in runs] == [*ids(config, 1e-3, 2e-3), "sweep-sweep"]
        assert [(run.sessions, run.exit_codes) for run in runs] == [(["new"], [0])] * 3
    shown = wandb_server.runs[wandb_id("sweep", "sweep")]
    assert (shown.settings["groupName"], shown.project) == ("sweep", config.logger.wandb.project)
    assert len(shown.history) == 1
    rows = table(shown, "sweep/runs").set_index("run_id")
    line = table(shown, "Custom Chart Tables/pareto/core/explained_variance_table")
    for folder in folders(config, 1e-3, 2e-3):
        assert rows.loc[folder.run_id, "core/explained_variance"] == metrics(folder)["core/explained_variance"]
    assert len(rows) == len(line) == 2
    assert sorted(line["step"]) == sorted(rows["core/l0"])
    others = [run for run in wandb_server.runs.values() if run is not shown]
    assert not any("sweep/runs" in row for run in others for row in run.history)


def test_a_sweep_with_a_member_that_failed_is_not_logged(
    wandb_server: WandbServer, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    wanted = ["name=sweep", "logger.wandb.mode=online", "eval=none", "optim.gradient_clip=0"]
    config = small_config(neox_folder, corpus_folder, tmp_path, *wanted)
    assert in_a_child(train_at, config, 1e30, 1e-3, server=wandb_server, home=tmp_path) == 1
    failed, done = wandb_server.runs.values()
    assert [failed.exit_codes, done.exit_codes] == [[1], [0]]
    assert [failed.name, done.name] == ids(config, 1e30, 1e-3)


@pytest.mark.long
def test_sweeps_that_are_measured_later_are_each_logged(
    wandb_server: WandbServer,
    neox_folder: Path,
    corpus_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wanted = ["logger.wandb.mode=auto", f"eval.cache_dir={tmp_path / 'cache'}"]
    trained = [
        small_config(neox_folder, corpus_folder, tmp_path, f"name={name}", "eval=none", *wanted) for name in "ab"
    ]
    runs = [folder for config in trained for folder in folders(config, 1e-3)]
    for config in trained:
        train_at(config, 1e-3)
    settings = small_config(neox_folder, corpus_folder, tmp_path, "eval.families=[core]", "eval.tokens=300", *wanted)
    sweeps = [folder.path.parent for folder in runs]
    for _ in range(2):  # the second time, nothing is left to measure
        code = in_a_child(evaluate_folders, "sweep", sweeps, settings, [], server=wandb_server, home=tmp_path)
        assert code == 0
        assert list(wandb_server.runs) == [*ids(trained[0], 1e-3), *ids(trained[1], 1e-3), "a-sweep", "b-sweep"]
        for name, folder in zip(("a-sweep", "b-sweep"), runs, strict=True):
            (row,) = table(wandb_server.runs[name], "sweep/runs").to_dict("records")
            assert (row["run_id"], row["core/l0"]) == (folder.run_id, metrics(folder)["core/l0"])
