"""What W&B gets, read back from its own files; and that training outlives W&B."""

import csv
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from masked_sae.config import RunConfig
from masked_sae.runs.curve import Row
from masked_sae.runs.run import make_run
from masked_sae.sweeps.evaluate import evaluate_folders
from masked_sae.tracking import run_tracker
from masked_sae.tracking.run_tracker import RunTracker
from masked_sae.training.train_run import train_run
from support.composing import small_config
from support.processes import SERVER, child, killed_after

pytestmark = pytest.mark.slow


def read_back(run: Path) -> list[dict[str, Any]]:
    """The records of every session's `.wandb` file, in order, as dictionaries."""
    from google.protobuf.json_format import MessageToDict
    from wandb.proto import wandb_internal_pb2

    records: list[dict[str, Any]] = []
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        for data in chunks(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            records.append(MessageToDict(record, preserving_proto_field_name=True))
    return records


def chunks(content: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: LevelDB's log format after a head of 7 bytes.

    W&B itself no longer carries a reader in Python. A killed session's file may end in the middle of a record.
    """
    block, head, at = 32768, 7, 7
    assert content.startswith(b":W&B")
    data = b""
    while at + head <= len(content):
        if block - at % block < head:
            at += block - at % block
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        data += content[at + head : at + head + length]
        at += head + length
        if kind in (1, 4) and at <= len(content):  # whole, or the last part
            yield data
        if kind in (1, 4):
            data = b""


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [nested(record["history"].get("item", [])) for record in records if "history" in record]


def nested(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Keys and values as W&B writes them: those of a table or a histogram are paths."""
    found: dict[str, Any] = {}
    for item in items:
        *path, last = item.get("nested_key") or [item["key"]]
        inner = found
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item["value_json"])
    return found


def shown_as(column: str) -> str:
    """What a column of metrics.csv is called in W&B."""
    if column in ("step", "tokens"):
        return {"step": "_step", "tokens": "tokens"}[column]
    return column if column.startswith("val/") else f"train/{column}"


def summary_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    return nested([item for record in records if "summary" in record for item in record["summary"].get("update", [])])


def table_of(run: Path, shown: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a W&B table, from the file that the session keeps of it."""
    assert shown["_type"] == "table-file"
    (path,) = (run / "wandb").glob(f"offline-run-*/files/{shown['path']}")
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], cells, strict=True)) for cells in table["data"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_stopped_and_resumed_is_one_wandb_run_with_no_step_missing_or_twice(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, number: int
) -> None:
    config = small_config(neox_folder, corpus_folder, tmp_path, "logger.wandb.mode=offline")
    killed_after(config, at_step=10, number=number)
    folder = make_run(config, {}).folder
    (first,) = (folder.path / "wandb").glob("offline-run-*")
    preempted = any("preempting" in record for record in read_back(folder.path))
    assert preempted == (number == signal.SIGTERM)
    train_run(make_run(config, {}))
    (session,) = (folder.path / "wandb").glob("offline-run-*")  # `wandb sync` finds one session, with the whole curve
    assert session != first
    records = read_back(folder.path)
    runs = [record["run"] for record in records if "run" in record]
    assert {run["run_id"] for run in runs} == {f"train-{folder.run_id}"}
    assert {run["run_group"] for run in runs} == {"train"}
    assert {run["project"] for run in runs} == {"masked-sae"}
    keys = {update["key"]: update["value_json"] for update in runs[0]["config"]["update"]}
    assert json.loads(keys["sae"])["k"] == 4
    rows = [row for row in history(records) if "train/loss" in row]
    steps = [row["_step"] for row in rows]
    assert steps == list(range(2, 25, 2))
    with folder.metrics.open() as file:
        written = [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]
    named = [{shown_as(key): value for key, value in row.items()} for row in written]
    logged = [{key: value for key, value in row.items() if not isinstance(value, dict)} for row in rows]
    assert named == [{key: value for key, value in row.items() if key in named[-1]} for row in logged]
    frequencies = {row["_step"]: row["val/log10_latent_frequency"] for row in rows if "val/l0" in row}
    kept = {line["step"]: line for line in map(json.loads, folder.histograms.read_text().splitlines())}
    assert list(frequencies) == list(kept) == [8, 16, 24]
    for step, line in kept.items():
        assert frequencies[step]["values"] == line["histograms"]["val/log10_latent_frequency"]["counts"]
    assert "core/explained_variance" in summary_of(records)


def test_a_run_ends_with_summaries_tables_histograms_and_if_asked_the_sae(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    families = "eval.families=[core,tpp]"
    small = [f"eval.cache_dir={tmp_path}", "eval.texts_per_class=8", "logger.wandb.artifact=true"]
    config = small_config(neox_folder, corpus_folder, tmp_path, "logger.wandb.mode=offline", families, *small)
    assert train_run(make_run(config, {})).status == "done"
    folder = make_run(config, {}).folder
    records = read_back(folder.path)

    defined = {m.get("name") or m["glob_name"]: m for m in (r["metric"] for r in records if "metric" in r)}
    assert defined["*"]["step_metric"] == "tokens"
    assert defined["train/loss"]["summary"] == {"min": True, "last": True}
    assert defined["train/explained_variance"]["summary"] == {"max": True, "last": True}

    rows = history(records)
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))
    last = rows[-1]
    assert last["tokens"] == 1536
    frequencies = last["evals/core/log10_latent_frequency"]
    core = json.loads((folder.evals / "core.json").read_text())
    assert frequencies["_type"] == "histogram"
    assert sum(frequencies["values"]) == round(64 * core["metrics"]["alive_latents"])
    assert sum(last["evals/core/max_decoder_cosine"]["values"]) == 64
    table = table_of(folder.path, last["evals/tpp/tasks"])
    tasks = json.loads((folder.evals / "tpp.json").read_text())["details"]["tasks"]
    assert [row["task"] for row in table] == list(tasks) and len(table) > 0
    assert all(row[key] == figure for row in table for key, figure in tasks[row["task"]].items())
    summary = summary_of(records)
    assert all(summary[f"core/{key}"] == value for key, value in core["metrics"].items())
    logged = [record["artifact"] for record in records if "artifact" in record] + [
        record["request"]["log_artifact"]["artifact"]
        for record in records
        if "log_artifact" in record.get("request", {})
    ]
    (artifact,) = [artifact for artifact in logged if artifact["type"] == "model"]  # a table is an artifact too
    entries = artifact["manifest"]["contents"]
    assert {entry["path"] for entry in entries} == {"cfg.json", "sae_weights.safetensors"}


def test_of_a_curve_wandb_gets_what_its_server_has_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What W&B's server would answer is given; nothing here can reach one."""
    logged: list[tuple[int, dict[str, Any]]] = []

    class Resumed:
        id, dir, step = "a", str(tmp_path / "wandb" / "run-1-a" / "files"), 5  # the server's last step is 4

        def define_metric(self, name: str, **settings: Any) -> None: ...

        def log(self, values: dict[str, Any], step: int, commit: bool) -> None:
            assert commit
            logged.append((step, values))

    ours, *others = (tmp_path / "wandb" / name for name in ("run-1-a", "offline-run-2-a", "offline-run-3-b"))
    for session in (ours, *others):
        session.mkdir(parents=True)
    run = Resumed()
    monkeypatch.setattr("wandb.init", lambda **settings: run)
    tracker = RunTracker({"project": "p"})
    tracker.begin([Row({"step": step, "tokens": 64 * step, "loss": 1 / step}) for step in (2, 4, 6)])
    tracker.log_row(Row({"step": 8, "tokens": 512, "loss": 0.125}))
    assert logged == [(6, {"tokens": 384, "train/loss": 1 / 6}), (8, {"tokens": 512, "train/loss": 0.125})]
    assert ours.exists() and not others[0].exists() and others[1].exists()


def trained_by_an_agent(config: RunConfig) -> None:
    os.environ |= {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "of-the-agent", "WANDB_PROJECT": "the-sweeps"}
    child(config)


def test_under_an_agent_a_run_has_the_agents_id_and_sweep(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    config = small_config(neox_folder, corpus_folder, tmp_path, "logger.wandb.mode=offline")
    process = SERVER.Process(target=trained_by_an_agent, args=(config,))
    process.start()
    process.join(timeout=200)
    runs = [record["run"] for record in read_back(make_run(config, {}).folder.path) if "run" in record]
    assert {(run["run_id"], run["sweep_id"], run["project"]) for run in runs} == {("of-the-agent", "s1", "the-sweeps")}


def test_training_never_dies_of_wandb(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(neox_folder, corpus_folder, tmp_path, "logger.wandb.mode=offline")

    def broken(**settings: Any) -> Any:
        raise RuntimeError("no service")

    monkeypatch.setattr("wandb.init", broken)
    with pytest.warns(UserWarning, match="training goes on: no service"):
        assert train_run(make_run(config, {})).status == "done"


def test_auto_goes_offline_with_one_line_where_nobody_is_logged_in(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    run_tracker.say_offline.cache_clear()
    config = small_config(neox_folder, corpus_folder, tmp_path, "logger.wandb.mode=auto")
    capfd.readouterr()
    assert train_run(make_run(config, {})).status == "done"
    said = capfd.readouterr()
    assert [line for line in (said.out + said.err).splitlines() if "W&B" in line or "wandb" in line] == [
        "W&B: offline, as nobody is logged in (`wandb login`); `wandb sync` uploads runs later"
    ]


def evaluated(settings: RunConfig) -> None:
    evaluate_folders("sae", [make_run(settings, {}).folder.path], settings, [])


def test_what_is_measured_later_joins_the_runs_curve(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    offline = ["logger.wandb.mode=offline", f"eval.cache_dir={tmp_path / 'cache'}"]
    trained = small_config(neox_folder, corpus_folder, tmp_path, "eval=none", *offline)
    settings = small_config(neox_folder, corpus_folder, tmp_path, "eval.families=[core]", "eval.tokens=300", *offline)
    for work, config in ((child, trained), (evaluated, settings)):  # each in a process of its own, as commands are
        process = SERVER.Process(target=work, args=(config,))
        process.start()
        process.join(timeout=200)
        assert process.exitcode == 0
    folder = make_run(settings, {}).folder
    records = read_back(folder.path)
    assert summary_of(records)["core/l0"] == json.loads(folder.results.read_text())["metrics"]["core/l0"]
    steps = [row["_step"] for row in history(records) if "train/loss" in row]
    assert steps == list(range(2, 25, 2))
