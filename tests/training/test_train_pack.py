"""Runs that share forwards: each is what it is alone, and together they cost the forwards of one."""

import random
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from masked_sae.config import RunConfig
from masked_sae.errors import InputError, NonFiniteError
from masked_sae.runs.asked_end import ask_to_end, forget_asked_end
from masked_sae.runs.lock import HeldError, hold
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import read_state
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.train_pack import Outcome, train_pack
from masked_sae.training.train_run import train_run
from support.composing import small_config
from support.processes import SERVER, assert_same_run, killed_after, reached
from support.streaming import counted_sequences

SHALLOW, DEEP = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
# What may differ between runs on the same batches.
DIFFERENT = [
    [],
    ["sae.k=8"],
    ["sae=topk"],
    ["sae.d_sae=96", "optim.lr=0.001"],
    ["sae=gated"],
    ["sae=p_anneal", "sae.sparsity_warmup_steps=4"],
    ["sae=balanced_matryoshka", "sae.orthogonality=0.3", "sae.orthogonality_chunk=16"],
    ["mask.latent.rate=0.3"],
    ["mask.input.rate=0.2", "optim.gradient_clip=0.1"],
    ["seed=1"],
]

Make = Callable[..., Run]


@pytest.fixture
def make(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Make:
    """A run on text order 0, with what little evaluation there is."""

    def made(*overrides: str, out: str = "pack") -> Run:
        fixed = ["data.seed=0", "eval.families=[core]", f"eval.cache_dir={tmp_path / 'cache'}"]
        config = small_config(neox_folder, corpus_folder, tmp_path / out, *fixed, *overrides)
        return make_run(replace(config, output_dir=str(tmp_path / out)), {})

    return made


def alone(run: Run, out: Path) -> Run:
    """The same run, trained by itself."""
    moved = make_run(replace(run.config, output_dir=str(out)), {})
    assert moved.folder.run_id == run.folder.run_id
    assert train_run(moved).status == "done"
    return moved


def statuses(runs: Sequence[Run]) -> list[str]:
    return [state.status for run in runs if (state := read_state(run.folder.state)) is not None]


@pytest.mark.slow
def test_members_are_what_they_are_alone(make: Make, tmp_path: Path) -> None:
    runs = [make(*overrides) for overrides in DIFFERENT]
    assert len({run.shares.forwards for run in runs if run.shares}) == 1
    outcomes = train_pack(runs)
    assert [outcome.state.status for outcome in outcomes if outcome.state] == ["done"] * len(runs)
    for run in runs:
        assert_same_run(run.folder, alone(run, tmp_path / "alone").folder)
        assert not FileLock(run.folder.lock).is_locked


@pytest.mark.slow
def test_a_pack_makes_the_forwards_of_one_run(make: Make) -> None:
    nothing_after = ["eval.families=[]", "sae.calibrate=none", "trainer.validate_every_steps=null"]
    with counted_sequences() as of_one:
        train_pack([make(*nothing_after, out="one")])
    with counted_sequences() as of_eight:
        train_pack([make(*nothing_after, *overrides) for overrides in DIFFERENT])
    hook_points_looked_at = 1  # of the LM as it is loaded
    assert len(of_one) > 10 and of_eight[hook_points_looked_at:] == of_one[hook_points_looked_at:]


@pytest.mark.slow
def test_hook_points_share_a_forward_to_the_deepest(make: Make, tmp_path: Path) -> None:
    quiet = ["eval.families=[]", "sae.calibrate=none", "trainer.validate_every_steps=null"]
    with counted_sequences() as of_one:
        train_pack([make(*quiet, f"lm.hook_name={DEEP}", out="one")])
    runs = [make(*quiet, f"lm.hook_name={name}", f"sae.k={k}") for name in (DEEP, SHALLOW) for k in (4, 8)]
    with counted_sequences() as of_four:
        assert [one.error for one in train_pack(runs)] == [None] * 4
    assert of_four.count(8) == of_one.count(8) > 10  # others, of two sequences, look at what a hook point gives
    for run in runs:
        assert_same_run_of_training(run, alone(run, tmp_path / "alone"))


def assert_same_run_of_training(ours: Run, theirs: Run) -> None:
    for path in ours.sae.iterdir():
        assert path.read_bytes() == (theirs.sae / path.name).read_bytes()


def stopped_at(step: int, which: Callable[[SAETraining], bool] = lambda _: True) -> pytest.MonkeyPatch:
    """Has the process get SIGTERM once a member is at a step."""
    patch, learn = pytest.MonkeyPatch(), SAETraining.learn

    def stopping(self: SAETraining, batch: Any) -> None:
        learn(self, batch)
        if self.step == step and which(self):
            signal.raise_signal(signal.SIGTERM)

    patch.setattr(SAETraining, "learn", stopping)
    return patch


@pytest.mark.slow
def test_members_at_different_steps_meet(make: Make, tmp_path: Path) -> None:
    """One was stopped early, one late, one is done, one is new; from where they meet there is one forward for all."""
    early, late, done, _ = runs = [make(f"sae.k={k}") for k in (2, 4, 8, 16)]
    for step, some in ((3, [early]), (17, [late])):
        patch = stopped_at(step)
        assert [one.state.status for one in train_pack(some) if one.state] == ["preempted"]
        patch.undo()
    train_pack([done])
    assert [reached(run.folder) for run in runs] == [3, 17, 24, 0]
    read: list[int] = []
    patch, learn = pytest.MonkeyPatch(), SAETraining.learn

    def noting(self: SAETraining, batch: Any) -> None:
        read.append(self.step)
        learn(self, batch)

    patch.setattr(SAETraining, "learn", noting)
    assert [one.state.status for one in train_pack(runs) if one.state] == ["done"] * 4
    patch.undo()
    assert read == sorted([*range(24), *range(3, 24), *range(17, 24)])
    for run in runs:
        assert_same_run(run.folder, alone(run, tmp_path / "alone").folder)


@pytest.mark.slow
def test_a_stop_checkpoints_all_and_they_go_on_to_the_same_bits(make: Make, tmp_path: Path) -> None:
    runs = [make(*overrides) for overrides in DIFFERENT[:4]]
    patch = stopped_at(13)
    outcomes = train_pack(runs)
    patch.undo()
    assert [one.state.error for one in outcomes if one.state] == ["stopped by SIGTERM"] * 4
    assert [reached(run.folder) for run in runs] == [13] * 4
    assert [one.error for one in train_pack(list(reversed(runs)))] == [None] * 4
    for run in runs:
        assert_same_run(run.folder, alone(run, tmp_path / "alone").folder)


@pytest.mark.slow
def test_a_member_that_is_asked_to_end_leaves_a_checkpoint_and_goes_on_to_the_same_bits_when_it_is_started_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masked_sae.training.callbacks.checkpointing._LOOKS_EVERY_SECONDS", 0.0)
    asked, other = make("sae.k=8"), make()
    learn = SAETraining.learn

    def asking(self: SAETraining, batch: Any) -> None:
        learn(self, batch)
        if self.step == 7:
            ask_to_end(asked.folder, "cancelled", "by hand")

    monkeypatch.setattr(SAETraining, "learn", asking)
    first, second = train_pack([asked, other])
    assert first.state is not None and (first.state.status, first.state.step) == ("cancelled", 7)
    assert first.state.error == "by hand" and not FileLock(asked.folder.lock).is_locked
    assert second.state is not None and second.state.status == "done"
    (still,) = train_pack([asked])  # as a job would that is queued again
    assert still.state is not None and (still.state.status, still.state.step) == ("cancelled", 7)
    forget_asked_end(asked.folder)
    monkeypatch.setattr(SAETraining, "learn", learn)
    assert [one.state.status for one in train_pack([asked]) if one.state] == ["done"]
    for run in (asked, other):
        assert_same_run(run.folder, alone(run, tmp_path / "alone").folder)


@pytest.mark.slow
def test_a_member_that_diverges_is_dropped_and_the_rest_go_on(make: Make, tmp_path: Path) -> None:
    runs = [make(), make("optim.lr=1e30", "optim.warmup_steps=0"), make("sae.k=8")]
    first, wild, last = train_pack(runs)
    assert isinstance(wild.error, NonFiniteError) and statuses(runs) == ["done", "failed", "done"]
    assert first.error is None and last.error is None
    for run in (runs[0], runs[2]):
        assert_same_run(run.folder, alone(run, tmp_path / "alone").folder)


@pytest.mark.slow
def test_mistakes_and_held_folders_are_their_own(make: Make) -> None:
    """No hook point, held by another, and one whose file system is broken: the fourth is trained."""
    nowhere, held, broken, fine = runs = [
        make("lm.hook_name=blocks.9.hook_resid_post"), make("sae.k=2"), make("sae.k=3"), make("sae.k=5")
    ]  # fmt: skip
    broken.folder.path.parent.mkdir(parents=True)
    broken.folder.path.write_text("a file")
    with hold(held.folder.lock):
        outcomes = train_pack(runs)
    kinds = [type(one.error) for one in outcomes]
    assert kinds[0] is InputError and kinds[1] is HeldError and issubclass(kinds[2], OSError) and kinds[3] is type(None)
    assert not nowhere.folder.path.exists() and statuses([fine]) == ["done"]


@pytest.mark.slow
def test_runs_of_other_threads_are_trained_after_one_another(make: Make, tmp_path: Path) -> None:
    """Their sums are others in their last bits, and so are the batches."""
    one, two = runs = [make("sae.k=2", "trainer.threads=1"), make("sae.k=3", "trainer.threads=2")]
    assert [outcome.error for outcome in train_pack(runs)] == [None, None]
    for run in (one, two):
        assert_same_run(run.folder, alone(run, tmp_path / "alone").folder)


@pytest.mark.slow
def test_after_a_signal_nothing_more_is_begun(make: Make) -> None:
    one, two = runs = [make("sae.k=2", "trainer.threads=1"), make("sae.k=3", "trainer.threads=2")]
    patch = stopped_at(3)
    stopped, waiting = train_pack(runs)
    patch.undo()
    assert stopped.state is not None and stopped.state.status == "preempted" and reached(one.folder) == 3
    assert (waiting.state, waiting.error) == (None, None) and not two.folder.path.exists()


@pytest.mark.slow
def test_a_shorter_run_ends_in_the_company_of_a_longer_one(make: Make, tmp_path: Path) -> None:
    runs = [make("mask=none", "data.train_tokens=1536"), make("mask=none", "data.train_tokens=960")]
    assert len({run.shares.forwards for run in runs if run.shares}) == 1
    assert [outcome.error for outcome in train_pack(runs)] == [None, None]
    for run in runs:
        assert_same_run(run.folder, alone(run, tmp_path / "alone").folder)


def train_all(configs: Sequence[RunConfig]) -> None:
    torch.set_num_threads(1)
    train_pack([make_run(config, {}) for config in configs])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_packs_killed_at_random_and_regrouped_come_to_the_same_bits(make: Make, tmp_path: Path) -> None:
    chance = random.Random(20)
    runs = [make(*overrides, "trainer.checkpoint_every_steps=2") for overrides in DIFFERENT[:5]]
    for _ in range(8):
        group = chance.sample(runs, chance.randint(1, len(runs)))
        process = SERVER.Process(target=train_all, args=([run.config for run in group],))
        process.start()
        process.join(timeout=chance.uniform(2.0, 9.0))
        process.kill()
        process.join()
    assert [outcome.error for outcome in train_pack(runs)] == [None] * len(runs)
    for run in runs:
        assert_same_run(run.folder, alone(run, tmp_path / "alone").folder)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], ["lm.dtype=bfloat16", "mask.token.target=clean"]], ids=str)
def test_a_cache_changes_no_bit_and_spares_the_forwards(make: Make, tmp_path: Path, overrides: list[str]) -> None:
    quiet = [*overrides, "eval.families=[]", "sae.calibrate=none", "trainer.validate_every_steps=null"]
    without = make(*quiet, out="without")
    writing, reading, other = (make(*quiet, *more) for more in (["data.cache=true"], ["seed=1"], ["sae.k=8"]))
    reading, other = (with_cache(run, "true") for run in (reading, other))
    with counted_sequences() as of_first:
        train_pack([without])
        train_pack([writing])
    with counted_sequences() as of_readers:
        train_pack([reading])
        train_pack([with_cache(other, "auto")])
    assert len(of_readers) < len(of_first) / 2  # scale, and what is looked at as an LM is loaded
    assert_same_run_of_training(writing, without)
    for run in (reading, other):
        assert_same_run_of_training(run, alone(with_cache(run, "false"), tmp_path / "alone"))


def with_cache(run: Run, cache: str) -> Run:
    config = replace(run.config, data=replace(run.config.data, cache=cache))
    return make_run(config, {})


@pytest.mark.slow
def test_a_coarser_dtype_of_the_cache_rounds_uncached_training_too(make: Make) -> None:
    quiet = ["eval.families=[]", "sae.calibrate=none", "trainer.validate_every_steps=null"]
    plain, rounded, cached = (
        make(*quiet, *more, out=f"case{number}")
        for number, more in enumerate(
            ([], ["data.cache_dtype=bfloat16"], ["data.cache_dtype=bfloat16", "data.cache=true"])
        )
    )
    train_pack([plain])
    train_pack([rounded])
    train_pack([cached])
    train_pack([again := make_run(replace(cached.config, output_dir=cached.config.output_dir + "2"), {})])
    assert plain.folder.run_id != rounded.folder.run_id == cached.folder.run_id
    for run in (cached, again):
        assert_same_run_of_training(run, rounded)
    weights = [(run.sae / "sae_weights.safetensors").read_bytes() for run in (plain, rounded)]
    assert weights[0] != weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["false", "true"])
def test_windows_made_ahead_change_no_bit(cache: str, make: Make, tmp_path: Path) -> None:
    """Masked, at two hook points, with validation beside, stopped by a signal and resumed."""
    chosen = [[f"lm.hook_name={name}", "mask.token.rate=0.3"] for name in (SHALLOW, DEEP)]
    runs = [make("data.ahead=true", f"data.cache={cache}", *one) for one in chosen]
    patch = stopped_at(11)
    try:
        assert statuses_of(train_pack(runs)) == ["preempted"] * 2
    finally:
        patch.undo()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("window")]
    assert statuses_of(train_pack(runs)) == ["done"] * 2
    for run, one in zip(runs, chosen, strict=True):
        assert_same_run(run.folder, alone(make(*one), tmp_path / "in turn").folder)


def statuses_of(outcomes: Sequence[Outcome]) -> list[str]:
    return [one.state.status for one in outcomes if one.state is not None]


@pytest.mark.slow
def test_a_process_killed_while_windows_are_made_ahead_goes_on_to_the_same_bits(make: Make, tmp_path: Path) -> None:
    run = make("data.ahead=true", "mask.token.rate=0.3")
    killed_after(run.config, at_step=7)
    assert statuses_of(train_pack([run])) == ["done"]
    assert_same_run(run.folder, alone(make("data.ahead=false", "mask.token.rate=0.3"), tmp_path / "in turn").folder)
