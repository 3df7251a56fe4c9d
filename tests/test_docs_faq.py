"""docs/faq.md quotes what is printed: its commands are run, its other lines come from runs that they are about."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from masked_sae import errors
from masked_sae.command_line import clear_errors
from masked_sae.runs.attempts import note_attempt
from masked_sae.runs.checkpoint import LAST
from masked_sae.runs.code import refuse_other_code
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import hold
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState, write_state
from masked_sae.sweeps.local import train_alone
from masked_sae.training.out_of_memory import JOB, STEP, WORKERS, killed, told
from masked_sae.training.threads import use_threads
from support.making import ROOT, compose, small_run

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "faq.md").read_text()
QUOTED = [line.removeprefix("    ") for line in PAGE.splitlines() if line.startswith("    ")]
COMMANDS = [
    (command.removeprefix("$ "), said) for command, said in itertools.pairwise(QUOTED) if command.startswith("$ ")
]
# Where the sources have the words of lines that take a cluster, a GPU or a full memory.
WORDS = {
    "out of memory in a pack of ": "sweeps/packs.py",
    "a pack of about ": "sweeps/packs.py",
    ": trained in halves": "sweeps/packs.py",
    ": trained on in smaller ones": "sweeps/packs.py",
    "a cluster that takes the job (": "sweeps/submission.py",
    "no room in the queue for ": "sweeps/slurm.py",
    " runs: jobs go on with these as they end": "sweeps/slurm.py",
    "W&B: offline, ": "tracking/run_tracker.py",
    "as nobody is logged in (`wandb login`)": "tracking/run_tracker.py",
    "; `wandb sync` uploads runs later": "tracking/run_tracker.py",
    "reached its time limit more often than hydra.launcher.max_num_timeout allows": "sweeps/pack_job.py",
}


@pytest.mark.parametrize(("command", "said"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_command_prints_the_line_below_it(command: str, said: str, tmp_path: Path) -> None:
    if ("cuda" in command and torch.cuda.is_available()) or ("slurm" in command and shutil.which("srun")):
        pytest.skip("this machine has what the line says it lacks")
    words = shlex.split(command)
    given = dict(word.split("=", 1) for word in words[: words.index("python")])
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "MASKED_SAE_"))}
    for shared in ("assets", ".cache/tokens"):  # the rest of what it writes is not the repository's
        (ROOT / shared).mkdir(parents=True, exist_ok=True)
        (tmp_path / shared).parent.mkdir(exist_ok=True)
        (tmp_path / shared).symlink_to(ROOT / shared)
    ended = subprocess.run(
        [sys.executable, *words[words.index("python") + 1 :]],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"} | given,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ended.returncode in (1, 2)
    assert alike(ended.stderr.strip().splitlines()[-1]) == alike(said)


def alike(line: str) -> str:
    """Without what is the machine's or the Python's own: its memory, the length of its standard library."""
    return re.sub(r"[\d.]+ (GiB|epochs)|at most \d+ here", "#", line)


@pytest.fixture(scope="module")
def done(neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that is done, and the settings that it was started with."""
    folder = tmp_path_factory.mktemp("faq")
    settings = small_run(neox_folder, corpus_folder, folder)
    train_alone(compose(settings))
    (run,) = (folder / "runs" / "train").iterdir()
    return run, settings


@pytest.fixture
def run(done: tuple[Path, list[str]], tmp_path: Path) -> tuple[RunFolder, Callable[..., None]]:
    """A copy of it, and what starts its command again."""
    copy = shutil.copytree(done[0], tmp_path / "runs" / "train" / done[0].name)
    settings = [one for one in done[1] if not one.startswith("output_dir=")]

    def again(*more: str) -> None:
        with clear_errors():
            train_alone(compose([*settings, f"output_dir={tmp_path / 'runs'}", *more]))

    return RunFolder(copy), again


def quoted(printed: str, folder: RunFolder) -> list[str]:
    """The lines of what was printed that the page quotes as they are."""
    for name in (str(folder.path), folder.run_id):
        printed = printed.replace(name, "RUN")
    return [line for line in printed.splitlines() if line in QUOTED]


def change_a_byte(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def test_damaged_files(run: tuple[RunFolder, Callable[..., None]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, again = run
    weights = folder.sae / "sae_weights.safetensors"
    change_a_byte(weights)
    again()
    folder.results.write_text("{")
    again()
    said = quoted(capsys.readouterr().err, folder)
    assert [line for line in said if "sae_weights" in line] and [line for line in said if "results.json" in line]
    change_a_byte(weights)
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(SystemExit):
        again()
    (line,) = quoted(capsys.readouterr().err, folder)
    assert line.startswith("error: RUN is damaged")


def test_absorption_that_cannot_be_measured(run: tuple[RunFolder, Callable[..., None]]) -> None:
    notes = json.loads((run[0].evals / "absorption.json").read_text())["notes"]
    pattern = (
        r"not measurable on this LM: \d+ of \d+ concepts have a ground-truth probe with an F1 over 0.6; 5 are needed"
    )
    (said,) = notes.values()
    assert re.fullmatch(pattern, said)
    assert re.search(rf"^    note: absorption/token_class: {pattern}$", PAGE, flags=re.MULTILINE)


def test_a_run_that_is_held(run: tuple[RunFolder, Callable[..., None]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, again = run
    with hold(folder.lock):
        again("force=true")
    said = capsys.readouterr().out.replace(str(folder.path), "RUN")
    assert re.sub(r"process \d+ on .*", "process 4242 on HOST", said.splitlines()[-1]) in QUOTED


def test_other_code(run: tuple[RunFolder, Callable[..., None]]) -> None:
    folder, _ = run
    note_attempt(folder.attempts, 8, torch.device("cpu"), {}, "0" * 32)
    write_state(folder.state, RunState(folder.run_id, "preempted"))
    with pytest.raises(errors.InputError) as refused:
        refuse_other_code(folder, "submitted")
    said = str(refused.value).replace(folder.run_id, "RUN")
    assert f"error: {re.sub('[0-9a-f]{32}', 'DIGEST', said)}" in QUOTED


def test_other_threads(run: tuple[RunFolder, Callable[..., None]], capsys: pytest.CaptureFixture[str]) -> None:
    use_threads(run[0], 4)
    assert len(quoted(capsys.readouterr().err, run[0])) == 1


def test_a_loss_that_is_not_finite(
    run: tuple[RunFolder, Callable[..., None]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, again = run
    with pytest.raises(SystemExit):
        again("optim.lr=1e30", "optim.warmup_steps=0", "trainer.log_every_steps=4")
    assert len(quoted(capsys.readouterr().err, folder)) == 1


def test_memory_that_runs_out(tmp_path: Path) -> None:
    """Which it does in tests/training/test_out_of_memory.py."""
    sizes = ["lm.batch_size=8", "data.window_tokens=512"]
    large = Run(RunFolder(tmp_path / "large"), {}, compose([*sizes, "sae.d_sae=65536", "data.batch_size=4096"]))
    full = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1073741824 bytes.")
    assert f"error: {told(full, STEP, large)}" in QUOTED
    small = Run(RunFolder(tmp_path / "small"), {}, compose([*sizes, "sae.d_sae=64", "data.batch_size=64"]))
    small.folder.checkpoints.mkdir(parents=True)
    (small.folder.checkpoints / LAST).touch()
    begun = RunState(small.folder.run_id, "running", step=40, steps=200)
    of_worker, of_job = killed(small, begun, WORKERS), killed(small, replace(begun, step=10, steps=24), JOB, 2)
    assert (
        len([line for line in QUOTED if f"out of memory, {of_worker}; and so did the one before; see LOG" in line]) == 1
    )
    assert f"SLURM job 71_0 was ended for want of memory, {of_job}; see its log in .submitit" in QUOTED


def test_what_takes_a_cluster_is_in_the_sources_words() -> None:
    for words, source in WORDS.items():
        assert words in (ROOT / "src" / "masked_sae" / source).read_text() and words in PAGE, words


def test_no_line_is_quoted_that_nothing_looks_at() -> None:
    looked_at = {said for _, said in COMMANDS} | {line for line in QUOTED if line.startswith("$ ")}
    others = [line for line in QUOTED if line not in looked_at and not any(words in line for words in WORDS)]
    held = (
        "RUN is held",
        "RUN has been trained with",
        "was begun with",
        "is damaged",
        "absorption/",
        "the loss is nan",
        "error: out of memory in",
        "its worker was killed by SIGKILL",
        "was ended for want of memory",
    )
    assert [line for line in others if not any(words in line for words in held)] == []
