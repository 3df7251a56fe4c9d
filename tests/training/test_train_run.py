"""One run, from its configuration to its folder; interrupted, resumed, and run again."""

import json
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from masked_sae.config import RunConfig
from masked_sae.errors import DamagedFileError, NonFiniteError
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.checkpoint import LAST, PREVIOUS, Checkpoint, save_checkpoint
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import HeldError, hold
from masked_sae.runs.run import make_run
from masked_sae.runs.state import read_state
from masked_sae.saes.sae import SHAPES
from masked_sae.training.callbacks import checkpointing
from masked_sae.training.train_run import train_run
from support.composing import small_config
from support.processes import assert_same_run, curve, killed_after
from support.sides import EXCEPTED, OTHERWISE, OUT, PLACES, SIDES


@pytest.fixture(scope="module")
def config(neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return small_config(neox_folder, corpus_folder, tmp_path_factory.mktemp("baseline"))


@pytest.fixture(scope="module")
def baseline(config: RunConfig) -> RunFolder:
    """A run that nothing disturbed."""
    assert train_run(make_run(config, {})).status == "done"
    return make_run(config, {}).folder


def elsewhere(config: RunConfig, out: Path, **changes: object) -> tuple[RunConfig, RunFolder]:
    """The same run in another place: output_dir does not enter the run's id."""
    moved = replace(config, output_dir=str(out), **changes)  # type: ignore[arg-type]
    return moved, make_run(moved, {}).folder


def test_a_run_leaves_the_folder_that_scripts_rely_on(config: RunConfig, baseline: RunFolder) -> None:
    state = read_state(baseline.state)
    assert state is not None
    assert (state.status, state.step, state.steps, state.tokens, state.error) == ("done", 24, 24, 1536, None)
    results = json.loads(baseline.results.read_text())
    assert results["run_id"] == baseline.run_id and results["status"] == "done"
    assert results["config"]["sae"]["k"] == 4
    assert {"core/l0", "core/explained_variance", "core/ce_recovered", "core/dead_latents"} <= results["metrics"].keys()
    assert sorted(path.name for path in baseline.sae.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert sorted(path.name for path in baseline.checkpoints.iterdir()) == [LAST, PREVIOUS]
    assert [int(row["step"]) for row in curve(baseline)] == list(range(2, 25, 2))
    assert baseline.path.parent == Path(config.output_dir) / config.name
    (attempt,) = read_attempts(baseline.attempts)
    assert (attempt.step, attempt.threads, attempt.software.versions["torch"]) == (0, 1, torch.__version__)


@pytest.mark.slow
def test_training_is_the_same_whether_it_is_validated_or_not(
    config: RunConfig, baseline: RunFolder, tmp_path: Path
) -> None:
    unwatched, folder = elsewhere(config, tmp_path, trainer=replace(config.trainer, validate_every_steps=None))
    train_run(make_run(unwatched, {}))
    assert folder.run_id == baseline.run_id and not folder.histograms.exists()
    ours, theirs = load_file(folder.checkpoints / LAST), load_file(baseline.checkpoints / LAST)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert [row.items() <= other.items() for row, other in zip(curve(folder), curve(baseline), strict=True)] == [
        True
    ] * 12


@pytest.mark.slow
def test_with_static_shapes_a_run_ends_in_the_same_sae(
    config: RunConfig, baseline: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    """That of a `k` to the bit, and one whose sparsity is paid for to round-off; under another id."""
    static = small_config(neox_folder, corpus_folder, tmp_path, "sae.shapes=static")
    assert train_run(make_run(static, {})).status == "done"
    assert make_run(static, {}).folder.run_id != baseline.run_id
    assert all(map(torch.equal, weights_of(static), weights_of(config)))
    paid = ["sae=jumprelu", "sae.encoder_norm_init=0.3"]
    dynamic, static = (small_config(neox_folder, corpus_folder, tmp_path, *paid, f"sae.shapes={s}") for s in SHAPES[1:])
    for one in (dynamic, static):
        train_run(make_run(one, {}))
    for ours, theirs in zip(weights_of(static), weights_of(dynamic), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def weights_of(config: RunConfig) -> list[torch.Tensor]:
    """What the run left to the LM's readers, thresholds included."""
    found = load_file(make_run(config, {}).folder.sae / "sae_weights.safetensors")
    return [found[name] for name in sorted(found)]


@pytest.mark.slow
def test_training_lowers_the_loss(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    longer = ["data.train_tokens=19200", "data.max_epochs=100", "optim.lr=0.003", "trainer.log_every_steps=20"]
    config = small_config(neox_folder, corpus_folder, tmp_path, *longer)
    train_run(make_run(config, {}))
    losses = [float(row["loss"]) for row in curve(make_run(config, {}).folder)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    config: RunConfig, baseline: RunFolder, tmp_path: Path
) -> None:
    again, folder = elsewhere(config, tmp_path)
    train_run(make_run(again, {}))
    assert_same_run(folder, baseline)
    other, other_folder = elsewhere(config, tmp_path, seed=1)
    train_run(make_run(other, {}))
    assert other_folder.run_id != folder.run_id
    assert curve(other_folder) != curve(folder)


@pytest.mark.slow
def test_mask_rate_zero_equals_no_mask_bit_for_bit(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    plain = small_config(neox_folder, corpus_folder, tmp_path / "none", "mask=none")
    rated = small_config(neox_folder, corpus_folder, tmp_path / "rate", "mask=token", "mask.token.rate=0")
    train_run(make_run(plain, {}))
    train_run(make_run(rated, {}))
    assert_same_run(make_run(plain, {}).folder, make_run(rated, {}).folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["sae=topk"], marks=pytest.mark.long),
        ["sae=batch_topk", "mask=latent", "mask.latent.rate=0.5"],
        pytest.param(["mask=input", "mask.input.rate=0.3"], marks=pytest.mark.long),
        ["mask.token.rate=0.3", "mask.token.target=clean", "mask.token.span=3", "mask.token.schedule=cosine"],
        ["mask.token.rate=0.3", "mask.token.loss_positions=unmasked", "mask.token.replacement=random"],
        pytest.param(["sae.compute_dtype=bfloat16", "lm.dtype=bfloat16"], marks=pytest.mark.long),
        pytest.param(["sae=relu", "sae.sparsity_warmup_steps=10"], marks=pytest.mark.long),
        ["sae=p_anneal", "sae.sparsity_warmup_steps=4"],
        ["sae=balanced_matryoshka", "sae.orthogonality=0.3", "sae.orthogonality_chunk=16"],
        ["sae=jumprelu", "mask=latent", "mask.latent.rate=0.5"],
        ["trainer.compile=true", "sae.shapes=static", "sae=p_anneal", "sae.sparsity_warmup_steps=8"],
        ["sae=gated", "mask.token.rate=0.3", "mask.token.target=clean", "sae.compute_dtype=bfloat16"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_every_variant_trains_and_resumes_to_the_same_bits(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, overrides: list[str]
) -> None:
    whole = small_config(neox_folder, corpus_folder, tmp_path / "whole", *overrides)
    train_run(make_run(whole, {}))
    broken = small_config(neox_folder, corpus_folder, tmp_path / "broken", *overrides)
    killed_after(broken, at_step=5)
    killed_after(broken, at_step=15)
    train_run(make_run(broken, {}))
    assert_same_run(make_run(broken, {}).folder, make_run(whole, {}).folder)


def test_encoders_train_too(bert_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    config = small_config(bert_folder, corpus_folder, tmp_path, "mask.token.replacement=mask")
    assert train_run(make_run(config, {})).status == "done"
    metrics = json.loads(make_run(config, {}).folder.results.read_text())["metrics"]
    assert metrics["core/ce_clean"] > 0


def test_an_lm_without_output_layer_gets_no_prediction_metrics(
    bert_base_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    config = small_config(bert_base_folder, corpus_folder, tmp_path, "mask.token.replacement=mask")
    train_run(make_run(config, {}))
    metrics = json.loads(make_run(config, {}).folder.results.read_text())["metrics"]
    assert "core/l0" in metrics and "core/ce_recovered" not in metrics


@pytest.mark.slow
def test_a_done_run_is_left_alone_and_force_starts_over(config: RunConfig, baseline: RunFolder) -> None:
    before = {path: path.stat().st_mtime_ns for path in baseline.path.rglob("*") if path.is_file()}
    assert train_run(make_run(config, {})).status == "done"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    train_run(make_run(replace(config, force=True), {}))
    assert baseline.results.stat().st_mtime_ns > before[baseline.results]


@pytest.mark.slow
def test_a_saved_configuration_is_enough_to_run_again(baseline: RunFolder, tmp_path: Path) -> None:
    from omegaconf import DictConfig, OmegaConf

    from masked_sae.config import typed_config

    saved = OmegaConf.load(baseline.config)
    assert isinstance(saved, DictConfig)
    again, folder = elsewhere(typed_config(saved), tmp_path)
    train_run(make_run(again, {}))
    assert_same_run(folder, baseline)


@pytest.mark.long
def test_killed_at_twenty_random_moments_a_run_ends_in_the_same_bits(config: RunConfig, tmp_path: Path) -> None:
    longer = replace(config.data, train_tokens=200 * 64, max_epochs=100)
    whole, undisturbed = elsewhere(config, tmp_path / "whole", data=longer)
    train_run(make_run(whole, {}))
    # A checkpoint at every step, which takes most of its time, so that most kills fall into the writing of one.
    every_step = replace(config.trainer, checkpoint_every_steps=1)
    broken, folder = elsewhere(config, tmp_path / "broken", data=longer, trainer=every_step)
    rng = random.Random(0)
    steps = [0]
    for kill in range(20):
        onward = kill % 5 > 0  # every fifth falls anywhere in the start
        after = rng.uniform(0, 0.02) if onward else rng.uniform(0, 1)
        steps.append(killed_after(broken, at_step=steps[-1] + onward, after=after))
    assert steps == sorted(steps), "a kill lost a checkpoint"
    assert len(set(steps)) > 15, "most kills came before training or after it"
    assert train_run(make_run(broken, {})).status == "done"
    assert_same_run(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_ends_a_run_in_order_and_it_goes_on_later(
    config: RunConfig, baseline: RunFolder, tmp_path: Path, number: int
) -> None:
    broken, folder = elsewhere(config, tmp_path)
    killed_after(broken, at_step=5, number=number)
    state = read_state(folder.state)
    assert state is not None and state.status == "preempted"
    assert state.error == f"stopped by {signal.Signals(number).name}"
    assert 5 <= state.step < 24
    train_run(make_run(broken, {}))
    assert_same_run(folder, baseline)


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    config: RunConfig, baseline: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, folder = elsewhere(config, tmp_path)
    killed_after(broken, at_step=15)
    last = folder.checkpoints / LAST
    content = bytearray(last.read_bytes())
    content[-10] ^= 1  # one bit, where only the digest can tell
    last.write_bytes(content)
    train_run(make_run(broken, {}))
    assert f"{last} is damaged" in capsys.readouterr().err
    assert_same_run(folder, baseline)


def test_of_two_processes_on_one_run_the_second_says_who_holds_it(config: RunConfig, tmp_path: Path) -> None:
    ours, folder = elsewhere(config, tmp_path)
    with hold(folder.lock), pytest.raises(HeldError, match=f"process {os.getpid()} on "):
        train_run(make_run(ours, {}))
    assert not folder.results.exists()


def test_a_loss_that_is_not_finite_fails_the_run_and_says_where(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    config = small_config(neox_folder, corpus_folder, tmp_path, "optim.lr=1e30", "optim.gradient_clip=0")
    with pytest.raises(NonFiniteError, match=r"the loss is .* at step \d+ of 24.*optim\.lr"):
        train_run(make_run(config, {}))
    state = read_state(make_run(config, {}).folder.state)
    assert state is not None and state.status == "failed" and state.error is not None
    assert "the loss is" in state.error


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_whose_folder_is_deleted_while_it_trains_fails_and_says_so(
    config: RunConfig, tmp_path: Path, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to go on in a new folder, and was done without the start of its curve and without a configuration."""
    ours, folder = elsewhere(config, tmp_path)
    owner = json.dumps({"host": "elsewhere", "pid": 1, "job_id": None})

    def delete(path: Path, checkpoint: Checkpoint) -> None:
        save_checkpoint(path, checkpoint)
        if checkpoint.meta["step"] == 10:
            shutil.rmtree(folder.path)
            if replaced:
                folder.path.mkdir()
                folder.lock.with_name(".lock.owner").write_text(owner)

    monkeypatch.setattr(checkpointing, "save_checkpoint", delete)
    with pytest.raises(DamagedFileError, match=f"{folder.path} is damaged .*while the run was at work in it"):
        train_run(make_run(ours, {}))
    if replaced:
        assert '"failed"' not in folder.state.read_text()  # it is another's
        assert folder.lock.with_name(".lock.owner").read_text() == owner
    else:
        state = read_state(folder.state)
        assert state is not None and state.status == "failed" and "deleted while" in (state.error or "")
        monkeypatch.undo()
        assert train_run(make_run(ours, {})).status == "done"


@pytest.mark.slow
def test_pieces_of_a_forward_change_no_id_and_weights_by_round_off_alone(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    whole, pieces = (
        make_run(small_config(neox_folder, corpus_folder, tmp_path / place, f"lm.micro_batch_size={size}"), {})
        for place, size in (("whole", "null"), ("pieces", "3"))
    )
    assert whole.folder.run_id == pieces.folder.run_id
    for run in (whole, pieces):
        train_run(run)
    ours, theirs = (load_file(run.sae / "sae_weights.safetensors") for run in (pieces, whole))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["matryoshka", "gated"])  # with a k, and calibrated to the training's L0
def test_nothing_outside_the_id_reaches_the_sae(
    architecture: str, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    assert {*OTHERWISE, *PLACES, *EXCEPTED} == {key for key, side in SIDES.items() if side == OUT}
    changes = [f"++{key}={value}" for key, value in OTHERWISE.items()]
    runs = [
        make_run(small_config(neox_folder, corpus_folder, tmp_path / place, f"sae={architecture}", *settings), {})
        for place, settings in (("one", []), ("other", [*changes, f"eval.cache_dir={tmp_path / 'cache'}"]))
    ]
    for run in runs:
        train_run(run)
    one, other = (sorted(run.sae.iterdir()) for run in runs)
    assert [path.name for path in one] == [path.name for path in other]
    assert all(mine.read_bytes() == theirs.read_bytes() for mine, theirs in zip(one, other, strict=True))
