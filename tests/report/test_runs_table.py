"""Run folders of every kind are read, and those without results are named with their reason."""

import json
import os
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from masked_sae.errors import InputError
from masked_sae.report.runs_table import read_runs
from masked_sae.report.training_curves import read_curve
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import owner_file_of
from masked_sae.runs.state import RunState
from support.made_sweeps import break_members, make_sweep, write_done
from support.making import compose

SMALL = {"rates": (0.0, 0.1), "ks": (8, 16), "seeds": (0, 1)}


def test_every_member_is_a_row_with_its_settings_and_metrics(tmp_path: Path) -> None:
    make_sweep(tmp_path / "sweep", **SMALL)
    runs = read_runs([tmp_path / "sweep"])
    assert len(runs.table) == len(runs.measured) == 8 and runs.unfinished.empty
    row = runs.table.set_index("run_id").loc["rate0.1-k16-seed1"]
    results = json.loads((tmp_path / "sweep" / "rate0.1-k16-seed1" / "results.json").read_text())
    assert row["core/l0"] == results["metrics"]["core/l0"]
    assert (row["mask.token.rate"], row["sae.k"], row["seed"], row["tokens"]) == (0.1, 16, 1, 4096)
    assert {"sae.k", "seed", "mask.token.rate"} <= set(runs.settings) and "sae.k" in runs.sparsity


def test_failed_missing_and_half_done_members_are_named_with_their_reason(tmp_path: Path) -> None:
    break_members(make_sweep(tmp_path, **SMALL))
    runs = read_runs([tmp_path])
    found = {row["run_id"]: (row["status"], row["reason"]) for _, row in runs.unfinished.iterrows()}
    assert found == {
        "rate0.0-k8-seed0": ("failed", "the loss is nan (1 of 4 steps)"),
        "rate0.0-k8-seed1": ("missing", "its folder is gone"),
        "rate0.0-k16-seed0": ("preempted", "stopped by SIGTERM (2 of 4 steps)"),
    }
    assert len(runs.measured) == 5
    gone = runs.table.set_index("run_id").loc["rate0.0-k8-seed1"]
    assert (gone["mask.token.rate"], gone["sae.k"], gone["seed"]) == (0.0, 8, 1)  # as the sweep's record says


@pytest.mark.parametrize("clock", [-420, 0, 420])  # of the run's machine, in seconds from the file system's
@pytest.mark.parametrize(("heard_of", "alive"), [("owner", True), ("state", True), ("neither", False)])
def test_a_run_that_was_killed_is_told_from_one_that_runs(
    tmp_path: Path, heard_of: str, alive: bool, clock: int
) -> None:
    folder = make_sweep(tmp_path, **SMALL)[0].folder
    folder.results.unlink()
    now = time.time()
    heard = {folder.state: now - 200, owner_file_of(folder.lock): now - 100}
    if alive:
        heard[folder.state if heard_of == "state" else owner_file_of(folder.lock)] = now
    updated = datetime.fromtimestamp(heard[folder.state] + clock, UTC).isoformat(timespec="seconds")
    folder.state.write_text(json.dumps(asdict(RunState(folder.run_id, "running", step=2, steps=4, updated=updated))))
    owner_file_of(folder.lock).write_text("{}")
    for path, at in heard.items():
        os.utime(path, (at, at))
    ((_, row),) = read_runs([tmp_path]).unfinished.iterrows()
    gone = "" if alive else r"; no sign of life for 0:01:4\d: its process is probably gone"
    assert row["status"] == "running" and re.fullmatch(f"2 of 4 steps{gone}", row["reason"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metrics": 3}', '{"status": "done"}'])
def test_damaged_results_are_named_and_stop_nothing(tmp_path: Path, text: str) -> None:
    members = make_sweep(tmp_path, **SMALL)
    members[0].folder.results.write_text(text)
    runs = read_runs([tmp_path])
    assert len(runs.measured) == 7
    ((_, row),) = runs.unfinished.iterrows()
    assert row["status"] == "damaged" and f"{members[0].folder.results} is damaged (" in row["reason"]
    assert "\n" not in row["reason"] and runs.damage == (row["reason"],)


def test_damaged_states_configurations_and_curves_stop_nothing(tmp_path: Path) -> None:
    members = make_sweep(tmp_path, **SMALL)
    for member, text in zip(members, ["{", '{"unknown": 1}', "[1]"], strict=False):
        member.folder.state.write_text(text)
    members[0].folder.results.unlink()
    members[0].folder.config.write_text("a: [")
    members[1].folder.metrics.write_bytes(b"\xff\xfe,\n1,2,3,4,5,6,7\n")
    members[2].folder.metrics.write_text("step,tokens,loss\n1,10,0.5\n2,20,")  # cut by a kill
    runs = read_runs([tmp_path])
    assert len(runs.measured) == 7
    assert list(runs.unfinished["status"]) == ["damaged"]
    assert read_curve(members[1].folder.path).rows.empty
    assert list(read_curve(members[2].folder.path).rows["tokens"]) == [10]
    assert read_curve(tmp_path / "nothing").rows.empty and not read_curve(tmp_path / "nothing").damage
    named = [member.folder.state for member in members[:3]]
    assert all(any(one.startswith(f"{path} is damaged (") for one in runs.damage) for path in named)


def test_a_row_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, **SMALL)[0].folder
    folder.metrics.write_text("step,tokens,loss\n1,10,0.5\n2,20,0.4,7\n3,30,many\n4,40,0.2\n")
    curve = read_curve(folder.path)
    assert list(curve.rows["tokens"]) == [10, 40]
    assert curve.damage.startswith(f"{folder.metrics} is damaged (") and "\n" not in curve.damage
    folder.metrics.write_text("step,loss\n1,0.5\n")
    assert read_curve(folder.path).rows.empty


@pytest.mark.parametrize(
    "odd",
    [
        {"own": {"masks": {"token": {}}}},
        {"own": {"masks": 3}},
        {"own": {"families": {"mine": {"metrics": {"score": {}}, "l0": "core/l0"}}}},
        {"own": {"settings": {"sae.k": 3}}},
        {"config": {"mask": {"token": {"rate": None, "schedule": "linear", "initial_rate": 0.1}}}},
    ],
)
def test_one_odd_run_takes_nothing_from_the_others(tmp_path: Path, odd: dict[str, Any]) -> None:
    folder = make_sweep(tmp_path, **SMALL)[0].folder
    folder.results.write_text(json.dumps(json.loads(folder.results.read_text()) | odd))
    runs = read_runs([tmp_path])
    assert len(runs.measured) == 7 and list(runs.unfinished["status"]) == ["damaged"]


def test_words_in_results_are_texts_of_which_nothing_is_run(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, **SMALL)[0].folder
    word = {"label": "{0.__class__} ((", "unit": "", "meaning": "{0:>9999999999}", "better": "up", "headline": True}
    own = {"families": {"mine": {"l0": "core/l0", "metrics": {"score": word}}}}
    results = json.loads(folder.results.read_text())
    results["metrics"]["mine/score"] = 1.0
    folder.results.write_text(json.dumps(results | {"own": own}))
    metric = read_runs([tmp_path]).catalogue.describe("mine/score")
    assert (metric.label, metric.meaning, metric.better) == ("{0.__class__} ((", "{0:>9999999999}", "")


def test_keys_that_another_version_wrote_do_no_harm(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, rates=(0.1,), ks=(8,), seeds=(0,))[0].folder
    results = json.loads(folder.results.read_text())
    results["config"]["mask"]["token"] |= {"is_off": True, "effective": 3, "class": 1}
    folder.results.write_text(json.dumps(results))
    (masks,) = read_runs([tmp_path]).masks
    assert masks["mask.token.rate"] == 0.1


def test_a_run_without_any_mask_is_unmasked_and_not_unknown(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, rates=(0.1,), ks=(8,), seeds=(0,))[0].folder
    results = json.loads(folder.results.read_text())
    for mask, known in (({}, {}), (None, None)):
        results["config"]["mask"] = mask
        folder.results.write_text(json.dumps(results))
        (found,) = read_runs([tmp_path]).masks
        assert found == known


def test_runs_that_were_not_evaluated_are_named(tmp_path: Path) -> None:
    members = make_sweep(tmp_path, **SMALL)
    results = json.loads(members[0].folder.results.read_text())
    members[0].folder.results.write_text(json.dumps(results | {"metrics": {}}))
    ((_, row),) = read_runs([tmp_path]).unfinished.iterrows()
    assert row["status"] == "not measured" and "src.evaluate" in row["reason"]


def test_saes_from_elsewhere_and_single_runs_are_read_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "others" / "somebody")
    folder.path.mkdir(parents=True)
    folder.results.write_text(json.dumps({"metrics": {"core/l0": 40.0, "core/explained_variance": None}}))
    write_done(RunFolder(tmp_path / "one"), asdict(compose([])), {"core/l0": 12.0})
    runs = read_runs([tmp_path / "others", tmp_path / "one"])
    assert list(runs.measured["run_id"]) == ["somebody", "one"]
    assert list(runs.table["core/l0"]) == [40.0, 12.0]
    assert "core/explained_variance" not in runs.metrics  # null: not measured


def test_what_holds_no_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a sweep's folder"):
        read_runs([tmp_path / "nothing"])
    with pytest.raises(InputError, match="holds runs"):
        read_runs([tmp_path])
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(InputError, match=r"sweep\.json"):
        read_runs([tmp_path])
