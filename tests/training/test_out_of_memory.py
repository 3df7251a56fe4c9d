"""Memory that really runs out, in a process that may have no more, and the line that it ends in."""

import errno
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from masked_sae.command_line import explain
from masked_sae.config import RunConfig, all_settings
from masked_sae.errors import ExhaustedError
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.checkpoint import LAST
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import RunState, read_state
from masked_sae.training import out_of_memory
from masked_sae.training.out_of_memory import STEP, WINDOW, WORKERS, Work, killed, telling, told
from masked_sae.training.train_run import train_run
from support.composing import ROOT, small_config, small_overrides
from support.making import compose
from support.sides import OUT, SIDES

WORKS = [one for one in vars(out_of_memory).values() if isinstance(one, Work)]
ELSEWHERE = {"lm.device", "lm.device_map", "trainer.devices"}  # named as they will be, where they are not there yet
# As torch 2 words it on a GPU; it was not seen on one here.
CUDA = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.44 GiB is "
    "free. Including non-PyTorch memory, this process has 77.65 GiB memory in use. Of the allocated memory 76.32 GiB "
    "is allocated by PyTorch, and 212.02 MiB is reserved by PyTorch but unallocated."
)
# Trains a small run, so that all is imported; then another, with so many bytes more than it has by then.
PROGRAM = """
import json, resource, sys
from pathlib import Path
from masked_sae.runs.run import make_run
from masked_sae.training.train_run import train_run
from support.making import compose

first, then, more = json.loads(sys.argv[1])
train_run(make_run(compose(first), {}))
lines = Path("/proc/self/status").read_text().splitlines()
has = next(int(line.split()[1]) for line in lines if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (has + more, resource.RLIM_INFINITY))
try:
    train_run(make_run(compose(then), {}))
except Exception as error:
    print(type(error).__name__, error, sep=": ")
"""
MIB = 1 << 20


@pytest.fixture
def config(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    return small_config(neox_folder, corpus_folder, tmp_path)


@pytest.fixture
def run(config: RunConfig) -> Run:
    return make_run(config, {})


def test_settings_that_a_run_goes_on_with_are_not_in_its_id_and_the_others_are() -> None:
    assert len(WORKS) == 9
    for work in WORKS:
        assert all(SIDES[key] == OUT for key in work.goes_on if key in all_settings())
        assert {key for key in work.goes_on if key not in all_settings()} <= ELSEWHERE
        assert all(SIDES[key] != OUT for key in work.anew)


def test_on_a_gpu_the_line_has_work_sizes_and_first_what_the_run_goes_on_with(run: Run) -> None:
    said = told(CUDA, STEP, run, together=4)
    assert isinstance(said, ExhaustedError)
    assert str(said) == (
        "out of memory in a training step (sae.d_sae=64, data.batch_size=64, data.window_tokens=512; "
        "tried to allocate 2.50 GiB): it begins again under its id with pack=2, lm.device, lm.device_map or "
        "trainer.devices; a smaller sae.d_sae, data.batch_size or data.window_tokens, or optim=adafactor, makes it "
        "another run, which begins anew"
    )
    run.folder.checkpoints.mkdir(parents=True)
    (run.folder.checkpoints / LAST).touch()
    assert "it goes on from its checkpoint with lm.device, lm.device_map" in str(told(CUDA, STEP, run))


def test_a_piece_of_a_forward_is_halved_as_long_as_there_is_more_than_one_sequence(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    for given, said in (("null", "lm.micro_batch_size=4"), ("3", "lm.micro_batch_size=1"), ("1", None)):
        settings = f"lm.micro_batch_size={given}"
        run = make_run(small_config(neox_folder, corpus_folder, tmp_path, settings), {})
        line = str(told(MemoryError(), WINDOW, run))
        assert said in line if said else "lm.micro_batch_size" not in line
        assert " more memory; a smaller data.window_tokens" in line


def test_other_errors_are_left_as_they_are_and_none_is_told_twice(run: Run) -> None:
    other = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert told(other, STEP, run) is other
    with pytest.raises(RuntimeError, match="mat1 and mat2"), telling(STEP, run):
        raise other
    once = told(MemoryError(), WINDOW, run)
    assert told(once, STEP, run) is once


def test_where_no_run_is_at_hand_a_command_ends_in_a_line_all_the_same() -> None:
    full = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to")
    assert explain(full) == f"out of memory ({full})"
    assert explain(MemoryError()) == "out of memory (MemoryError)"
    assert explain(OSError(errno.ENOMEM, "Cannot allocate memory")) is not None
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_what_the_work_held_is_let_go_while_its_error_is_kept(run: Run) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        large = torch.zeros(8)
        held.append(weakref.ref(large))
        raise MemoryError(large.sum())

    with pytest.raises(ExhaustedError) as info, telling(STEP, run):
        work()
    assert info.value.__suppress_context__ and held[0]() is None


def test_a_process_that_was_killed_is_placed_by_the_state_that_it_left(run: Run) -> None:
    begun = RunState(run.folder.run_id, "running", step=120, steps=400)
    line = killed(run, begun, WORKERS, together=2)
    assert line.startswith(
        "about step 120 of 400 (sae.d_sae=64, data.window_tokens=512, data.batch_size=64): it begins"
    )
    assert "with pack=1, lm.micro_batch_size=4 or fewer hydra.launcher.workers; a smaller sae.d_sae" in line
    at_end = RunState(run.folder.run_id, "running", step=400, steps=400)
    assert killed(run, at_end, WORKERS).startswith("after its last step (sae.d_sae=64): ")
    assert killed(run, None, WORKERS).startswith("before its first checkpoint (")


def trained_with(more: int, first: list[str], then: list[str]) -> str:
    """What a process says whose memory may grow by so much after its first run."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([first, then, more])],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


WINDOW_OF_A_GIB = ["data.train_tokens=8388608", "data.window_tokens=8388608", "data.max_epochs=100000"]
LARGE_STEP = ["sae.d_sae=262144", "data.batch_size=256", "data.train_tokens=1024"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "work", "helps"),
    [
        (
            WINDOW_OF_A_GIB,
            "making a window of activations (data.window_tokens=8388608, lm.batch_size=8, data.context_length=16; "
            "tried to allocate 1.00 GiB)",
            "lm.micro_batch_size=4 or more memory",
        ),
        (
            LARGE_STEP,
            "a training step (sae.d_sae=262144, data.batch_size=256, data.window_tokens=512; "
            "tried to allocate 0.25 GiB)",
            "more memory",
        ),
    ],
    ids=["window", "step"],
)
def test_a_cpu_that_has_no_more_is_told_by_what_was_being_done(
    settings: list[str], work: str, helps: str, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    common = [*small_overrides(neox_folder, corpus_folder, tmp_path), "eval=none", "trainer.validate_every_steps=null"]
    line = trained_with(400 * MIB, common, [*common, "name=then", *settings])
    assert line.startswith(
        f"ExhaustedError: out of memory in {work}: it begins again under its id with {helps}; a smaller "
    )
    (folder,) = (tmp_path / "runs" / "then").iterdir()
    state = read_state(folder / "state.json")
    assert state is not None and state.status == "failed" and f"ExhaustedError: {state.error}" == line


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_with_the_setting_that_the_line_names(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    common = [*small_overrides(neox_folder, corpus_folder, tmp_path), "eval=none"]
    wide = [*common, "name=wide", "sae.d_sae=16384", "data.train_tokens=1024", "lm.batch_size=256"]
    wide += ["trainer.validation_tokens=4096", "eval.batch_size=256"]  # of which all latents are 256 MiB
    line = trained_with(400 * MIB, common, wide)
    assert "out of memory in measuring on held-out text while training (sae.d_sae=16384, " in line
    assert "it goes on from its checkpoint with eval.batch_size=128" in line
    config = compose([*wide[:-1], "eval.batch_size=4"])
    run = make_run(config, {})
    state = read_state(run.folder.state)
    assert state is not None and state.status == "failed" and state.step == 5
    assert train_run(run).status == "done"
    assert [attempt.step for attempt in read_attempts(run.folder.attempts)] == [0, 5]
