"""What W&B gets, read back from its own files; and that training outlives W&B."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from composing import small_config
from test_training import killed_after

from masked_sae.preparation import identify
from masked_sae.training import train_run
from masked_sae.wandb_logging import ForgivingWandbLogger


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
    rows = []
    for record in records:
        if "history" in record:
            items = record["history"].get("item", [])
            rows.append({(i.get("key") or ".".join(i["nested_key"])): json.loads(i["value_json"]) for i in items})
    return rows


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_stopped_and_resumed_is_one_wandb_run_with_no_step_twice(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, number: int
) -> None:
    config = small_config(neox_folder, corpus_folder, tmp_path, "logger.wandb.mode=offline")
    killed_after(config, at_step=10, number=number)
    train_run(config)
    folder = identify(config, {}).folder
    records = read_back(folder.path)
    runs = [record["run"] for record in records if "run" in record]
    assert {run["run_id"] for run in runs} == {f"train-{folder.run_id}"}
    assert {run["run_group"] for run in runs} == {"train"}
    assert {run["project"] for run in runs} == {"masked-sae"}
    keys = {update["key"]: update["value_json"] for update in runs[0]["config"]["update"]}
    assert json.loads(keys["sae"])["k"] == 4
    rows = history(records)
    tokens = [row["tokens"] for row in rows if "tokens" in row]
    every = [64 * step for step in range(2, 25, 2)]
    if number == signal.SIGTERM:
        assert tokens == every
    else:  # what W&B had not yet written is lost with the process, from W&B alone
        assert tokens == every[-len(tokens) :] and len(tokens) >= 6
    assert all("train/loss" in row and "train/l0" in row for row in rows if "tokens" in row)
    summary = [item for record in records if "summary" in record for item in record["summary"].get("update", [])]
    assert "core/explained_variance" in {item.get("key") or ".".join(item["nested_key"]) for item in summary}


def test_training_never_dies_of_wandb(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(neox_folder, corpus_folder, tmp_path, "logger.wandb.mode=offline")

    def broken(self: ForgivingWandbLogger) -> Any:
        raise RuntimeError("no service")

    monkeypatch.setattr(ForgivingWandbLogger, "experiment", property(broken))
    with pytest.warns(UserWarning, match="training goes on: no service"):
        assert train_run(config).status == "done"


def test_auto_goes_offline_with_one_line_where_nobody_is_logged_in(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    config = small_config(neox_folder, corpus_folder, tmp_path, "logger.wandb.mode=auto")
    capfd.readouterr()
    assert train_run(config).status == "done"
    said = capfd.readouterr()
    assert [line for line in (said.out + said.err).splitlines() if "W&B" in line or "wandb" in line] == [
        "W&B: offline, as nobody is logged in (`wandb login`); `wandb sync` uploads the run later"
    ]
