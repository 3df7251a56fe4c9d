"""What a W&B server is sent: by runs that are online, interrupted and resumed, by `wandb sync`, and by a sweep's agent.

The server is a recorder (wandb_recorder.py); W&B's client, its upload service, its agent and the runs are real.
"""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from masked_sae.config import RunConfig
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import make_run
from masked_sae.runs.state import read_state
from support.composing import small_config, small_overrides
from support.making import ROOT
from support.processes import ON_THE_CLOCK, SERVER, child, killed_after
from support.wandb_recorder import RecordedRun, WandbServer

# 400 steps
LONG = pytest.mark.long
LONGER = ["data.train_tokens=25600", "data.max_epochs=100", "eval.families=[core]"]

Start = Callable[..., Any]


def trained(config: RunConfig, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    child(config)


@pytest.fixture
def start(wandb_server: WandbServer, tmp_path: Path) -> Generator[Start]:
    """Begins to train a configuration in a process of its own, which does not outlive the test."""
    started: list[Any] = []

    def start_one(config: RunConfig, **variables: str) -> Any:
        process = SERVER.Process(target=trained, args=(config, wandb_server.environment(tmp_path) | variables))
        process.start()
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.join(60)


def end_of(process: Any) -> int:
    """Waits for it; its exit code."""
    process.join(120)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode


@contextmanager
def held(server: WandbServer, name: str, folder: RunFolder, step: int) -> Generator[RecordedRun]:
    """Has a run stand still soon after a step, once the server has it.

    W&B's client sends once a second; a run on a fast machine would be over by then.
    """
    assert server.wait_for(lambda: last_written(folder) >= step + 20)  # the last rows may still be on their way
    state = read_state(folder.state)
    assert state is not None and state.pid is not None
    os.kill(state.pid, signal.SIGSTOP)
    try:
        assert server.wait_for(lambda: name in server.runs and server.runs[name].last_step >= step)
        yield server.runs[name]
    finally:
        os.kill(state.pid, signal.SIGCONT)


def last_written(folder: RunFolder) -> int:
    """The last step of metrics.csv; 0 for none."""
    lines = folder.metrics.read_text().splitlines() if folder.metrics.exists() else []
    return int(lines[-1].split(",")[0]) if len(lines) > 1 else 0


def assert_every_row_arrived_once(run: RecordedRun, folder: RunFolder) -> None:
    """The server's rows are those of metrics.csv, and no line of the server's was sent again with something else."""
    assert run.changed == []
    steps = [row["_step"] for row in run.history]
    assert steps == sorted(set(steps))
    rows = [row for row in run.history if "train/loss" in row]
    with folder.metrics.open() as file:
        kept = list(csv.DictReader(file))
    assert [row["_step"] for row in rows] == [int(row["step"]) for row in kept]
    for row, cells in zip(rows, kept, strict=True):
        assert row["tokens"] == int(cells.pop("tokens"))
        for key, cell in cells.items():
            if cell and key not in (*ON_THE_CLOCK, "step"):
                assert row[key if "/" in key else f"train/{key}"] == float(cell), key


def reached(server: WandbServer, folder: RunFolder) -> tuple[int, int]:
    """The last step that the server has, and that of the checkpoint; 0 for none."""
    run, state = server.runs.get(f"train-{folder.run_id}"), read_state(folder.state)
    return run.last_step if run else 0, state.step if state else 0


def checkpoint_ahead(sent: int, kept: int) -> bool:
    return 0 < sent < kept


def server_ahead(sent: int, kept: int) -> bool:
    return 0 < kept < sent


def no_checkpoint(sent: int, kept: int) -> bool:
    return kept == 0 < sent


@pytest.mark.parametrize(
    ("number", "checkpoint_every", "step", "moment"),
    [
        pytest.param(signal.SIGTERM, 5, 10, checkpoint_ahead, id="SIGTERM"),
        pytest.param(signal.SIGKILL, 5, 10, checkpoint_ahead, id="SIGKILL, the checkpoint ahead", marks=LONG),
        pytest.param(signal.SIGKILL, 150, 160, server_ahead, id="SIGKILL, the server ahead", marks=LONG),
        pytest.param(signal.SIGKILL, 1000, 10, no_checkpoint, id="SIGKILL, before any checkpoint", marks=LONG),
    ],
)
def test_an_online_run_that_is_interrupted_goes_on_in_the_same_wandb_run(
    wandb_server: WandbServer,
    start: Start,
    neox_folder: Path,
    corpus_folder: Path,
    tmp_path: Path,
    number: signal.Signals,
    checkpoint_every: int,
    step: int,
    moment: Callable[[int, int], bool],
) -> None:
    online = ["logger.wandb.mode=online", f"trainer.checkpoint_every_steps={checkpoint_every}"]
    config = small_config(neox_folder, corpus_folder, tmp_path, *LONGER, *online)
    folder = make_run(config, {}).folder
    first = start(config)
    with held(wandb_server, f"train-{folder.run_id}", folder, step) as run:
        pass
    assert wandb_server.wait_for(lambda: moment(*reached(wandb_server, folder)))
    assert first.is_alive(), "it ended too early to be interrupted"
    os.kill(first.pid, number)
    end_of(first)
    assert list(wandb_server.runs.values()) == [run]
    in_order = number == signal.SIGTERM
    assert (run.preempting, run.exit_codes) == (in_order, [1] if in_order else [])
    assert end_of(start(config)) == 0
    assert list(wandb_server.runs.values()) == [run]
    assert run.sessions == ["new", "resumes"]
    assert run.exit_codes[-1] == 0
    assert_every_row_arrived_once(run, folder)
    metrics = json.loads(folder.results.read_text())["metrics"]
    assert {key: run.summary[key] for key in metrics} == metrics
    assert (run.config["sae"]["value"]["k"], run.settings["groupName"]) == (4, "train")


@pytest.mark.long
def test_a_run_ends_though_the_server_has_gone(
    wandb_server: WandbServer, start: Start, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    config = small_config(neox_folder, corpus_folder, tmp_path, *LONGER, "logger.wandb.mode=online")
    folder = make_run(config, {}).folder
    process = start(config, WANDB_FINISH_TIMEOUT="2")
    with held(wandb_server, f"train-{folder.run_id}", folder, 10):
        wandb_server.close()
    assert end_of(process) == 0
    state = read_state(folder.state)
    assert state is not None and state.status == "done"


def test_tables_and_the_sae_arrive_as_artifacts(
    wandb_server: WandbServer, start: Start, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    wanted = ["logger.wandb.mode=online", "logger.wandb.artifact=true", "eval.families=[core,tpp]"]
    small = [f"eval.cache_dir={tmp_path}", "eval.texts_per_class=8"]
    config = small_config(neox_folder, corpus_folder, tmp_path, *wanted, *small)
    folder = make_run(config, {}).folder
    assert end_of(start(config)) == 0
    (run,) = wandb_server.runs.values()
    shown = run.history[-1]["evals/tpp/tasks"]
    table = json.loads(run.files[shown["path"]])
    tasks = json.loads((folder.evals / "tpp.json").read_text())["details"]["tasks"]
    assert [row[table["columns"].index("task")] for row in table["data"]] == list(tasks)
    artifacts = wandb_server.artifacts.values()
    assert all(artifact["committed"] for artifact in artifacts)
    (sae,) = [artifact["files"] for artifact in artifacts if artifact["artifactTypeName"] == "model"]
    assert sae["sae_weights.safetensors"] == (folder.sae / "sae_weights.safetensors").read_bytes()
    assert sae["cfg.json"] == (folder.sae / "cfg.json").read_bytes()


def wandb(server: WandbServer, home: Path, folder: Path, *words: str) -> None:
    """W&B's command, in a folder."""
    command = [sys.executable, "-m", "wandb", *words]
    ended = subprocess.run(
        command, cwd=folder, env=server.environment(home), capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("synced_before", [False, pytest.param(True, marks=LONG)])
def test_an_offline_run_that_is_killed_and_resumed_is_synced_whole(
    wandb_server: WandbServer,
    start: Start,
    neox_folder: Path,
    corpus_folder: Path,
    tmp_path: Path,
    synced_before: bool,
) -> None:
    config = small_config(neox_folder, corpus_folder, tmp_path, *LONGER, "logger.wandb.mode=offline")
    folder = make_run(config, {}).folder
    assert 0 < killed_after(config, at_step=100) < 400
    if synced_before:
        wandb(wandb_server, tmp_path, folder.path, "sync", "--yes")
        assert 0 < len(wandb_server.runs[f"train-{folder.run_id}"].history) < 200
    assert end_of(start(config)) == 0
    wandb(wandb_server, tmp_path, folder.path, "sync", "--yes")
    (run,) = wandb_server.runs.values()
    assert run.name == f"train-{folder.run_id}"
    assert run.sessions == ["new", "overwrites"][: 1 + synced_before]  # one upload for each `wandb sync`
    assert run.exit_codes[-1] == 0
    assert_every_row_arrived_once(run, folder)
    metrics = json.loads(folder.results.read_text())["metrics"]
    assert {key: run.summary[key] for key in metrics} == metrics


WITHOUT_PAUSES = """
from wandb.cli.cli import cli
from wandb.wandb_agent import Agent
Agent.POLL_INTERVAL = 0.05
cli()
"""


def kill_session(leader: int) -> None:
    """What a process has left: W&B's agent puts what it starts into groups of their own."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(folder.name)) == leader:
                os.kill(int(folder.name), signal.SIGKILL)


@pytest.mark.long
def test_an_agent_trains_at_the_sweeps_values_and_a_run_that_was_preempted_resumes_when_it_is_handed_out_again(
    wandb_server: WandbServer, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    small = small_overrides(neox_folder, corpus_folder, tmp_path)
    small = [word for word in small if not word.startswith("logger.wandb.mode")]
    definition = yaml.safe_load((ROOT / "sweeps" / "wandb" / "mask_and_sparsity.yaml").read_text())
    at = definition["command"].index("src.train") + 1
    definition["command"][at:at] = [*small, *LONGER]
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(definition))
    wandb(wandb_server, tmp_path, tmp_path, "sweep", "--project", "of-the-sweep", str(file))
    (sweep,) = wandb_server.sweeps.values()
    sweep.hand_out("chosen-by-wandb", {"mask.token.rate": 0.25, "sae.k": 5})
    environment = wandb_server.environment(tmp_path) | {"WANDB_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-c", WITHOUT_PAUSES, "agent", f"tester/of-the-sweep/{sweep.name}"]
    with (tmp_path / "agent.log").open("w") as log:
        agent = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            sweep_folder = tmp_path / "runs" / "wandb_mask_and_sparsity"
            assert wandb_server.wait_for(lambda: any(sweep_folder.glob("*/metrics.csv")) or agent.poll() is not None)
            (path,) = sweep_folder.iterdir()
            with held(wandb_server, "chosen-by-wandb", RunFolder(path), 10) as run:
                wandb_server.stopping.add(run.name)
                assert wandb_server.wait_for(lambda: not wandb_server.stopping)
            assert wandb_server.wait_for(lambda: len(run.sessions) == 2)
            assert agent.wait(timeout=120) == 0
        finally:
            agent.kill()
            kill_session(agent.pid)
            agent.wait(timeout=60)
    assert list(wandb_server.runs.values()) == [run]
    assert (run.project, run.settings["sweep"]) == ("of-the-sweep", sweep.name)
    assert run.sessions == ["new", "resumes"]
    assert run.exit_codes == [1, 0]
    trained_config = {key: entry["value"] for key, entry in run.config.items()}
    assert (trained_config["mask"]["token"]["rate"], trained_config["sae"]["k"]) == (0.25, 5)
    assert list(sweep_folder.iterdir()) == [path]
    assert_every_row_arrived_once(run, RunFolder(path))
    assert definition["metric"]["name"] in run.summary
