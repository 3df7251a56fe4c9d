"""Optimizers with less memory than Adam: what their state takes, what it comes to, and that nothing of it is lost."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from masked_sae.activations.scale import ActivationStatistics
from masked_sae.activations.stream import Batch
from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.masks.run_masks import Masks
from masked_sae.runs.checkpoint import load_checkpoint
from masked_sae.runs.results import read_results
from masked_sae.runs.run import make_run
from masked_sae.sweeps.local import make_runs, train_alone
from masked_sae.training.assemble import begin_training
from masked_sae.training.memory import needed_bytes
from masked_sae.training.optimizers import refuse_unusable, state_bytes
from masked_sae.training.restoring import capture, restore
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.train_pack import train_pack
from masked_sae.training.train_run import train_run
from support.composing import small_config
from support.making import compose
from support.processes import assert_same_run, killed_after

Make = Callable[..., RunConfig]
CPU = torch.device("cpu")
D_IN = 48


@pytest.fixture
def make(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Make:
    def made(out: str, *overrides: str) -> RunConfig:
        return small_config(neox_folder, corpus_folder, tmp_path / out, "optim=adafactor", *overrides)

    return made


def begun(optimizer: str, steps: int = 40) -> SAETraining:
    config = compose(["sae=topk", "sae.d_sae=512", "sae.k=8", f"optim={optimizer}"])
    statistics = ActivationStatistics(1.0, torch.zeros(D_IN))
    return begin_training(config.sae, config.optim, statistics, Masks({}), steps=steps, seed=0, device=CPU)


def stepped(training: SAETraining, steps: int) -> SAETraining:
    for _ in range(steps):
        x_BD = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(training.step))
        training.learn(Batch(x_BD, x_BD, 0.0))
    return training


def held_bytes(training: SAETraining) -> int:
    states = list(training.optimizer.state.values())
    tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(one.nbytes for one in tensors if one.ndim)  # but for the count of steps


@pytest.mark.parametrize(("optimizer", "of_adams"), [("adam", 1.0), ("adafactor", 0.05)])
def test_a_state_takes_what_is_counted_for_it(optimizer: str, of_adams: float) -> None:
    held = held_bytes(stepped(begun(optimizer), 2))
    assert held == state_bytes(optimizer, D_IN, 512)
    assert held <= of_adams * state_bytes("adam", D_IN, 512)


def test_what_a_run_needs_is_counted_by_its_optimizer() -> None:
    adam, adafactor = (compose([f"optim={name}", "sae.d_sae=4096"]) for name in ("adam", "adafactor"))
    spared = needed_bytes(adam, 256) - needed_bytes(adafactor, 256)
    assert spared == state_bytes("adam", 256, 4096) - state_bytes("adafactor", 256, 4096)


@pytest.mark.parametrize("optimizer", ["adafactor", "adam8bit"])
def test_training_goes_on_from_what_was_captured_to_the_same_bits(optimizer: str) -> None:
    if optimizer == "adam8bit":
        pytest.importorskip("bitsandbytes", reason="of the extra adam8bit; its state is the same on any device")
    whole = stepped(begun(optimizer), 20)
    former = stepped(begun(optimizer), 9)
    again = begun(optimizer)
    restore(again, capture(former, {}))
    stepped(again, 11)
    ours, theirs = (capture(one, {}).tensors for one in (again, whole))
    assert ours.keys() == theirs.keys() and len(ours) > 8
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


def test_adams_id_is_what_it_was_and_others_have_their_own(make: Make) -> None:
    config = make("out")
    adam = replace(config, optim=replace(config.optim, name="adam"))
    assert make_run(adam, {}).folder.run_id != make_run(config, {}).folder.run_id


@pytest.mark.slow
def test_a_run_of_adafactor_that_is_killed_has_the_bits_of_one_that_is_not(make: Make) -> None:
    ours, theirs = make("ours", "data.train_tokens=3072"), make("theirs", "data.train_tokens=3072")
    assert killed_after(ours, 12) < 48
    checkpoint = load_checkpoint(make_run(ours, {}).folder.checkpoints)
    assert checkpoint is not None and any(name.endswith("/row_var") for name in checkpoint.tensors)
    for config in (ours, theirs):
        assert train_run(make_run(config, {})).status == "done"
    assert_same_run(make_run(ours, {}).folder, make_run(theirs, {}).folder)


@pytest.mark.slow
def test_members_of_a_pack_have_optimizers_of_their_own(make: Make) -> None:
    def configs(out: str) -> list[RunConfig]:
        config = make(out)
        return [config, replace(config, optim=replace(config.optim, name="adam", lr=1e-3))]

    together = make_runs([(one, {"optim.name": one.optim.name}) for one in configs("together")])
    assert [one.state and one.state.status for one in train_pack(together)] == ["done", "done"]
    for packed, config in zip(together, configs("alone"), strict=True):
        alone = make_run(config, packed.swept)
        train_run(alone)
        assert_same_run(packed.folder, alone.folder)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_topk_of_the_embedded_lm_explains_as_much_as_with_adam(tmp_path: Path) -> None:
    common = ["sae=topk", "sae.d_sae=1024", "data.train_tokens=200_000", "mask=none", "eval.families=[core]"]
    common += ["trainer.progress=false", "logger.wandb.mode=disabled", "trainer.validate_every_steps=null"]
    configs = [compose([*common, f"optim={name}", f"output_dir={tmp_path}"]) for name in ("adam", "adafactor")]
    runs = make_runs([(config, {"optim.name": config.optim.name}) for config in configs])
    assert [one.state and one.state.status for one in train_pack(runs)] == ["done", "done"]
    adam, adafactor = (read_results(run.folder).metrics["core/explained_variance"] for run in runs)
    print(adam, adafactor)
    assert adafactor > adam - 0.02


def test_an_optimizer_of_a_library_that_is_not_there_is_refused_before_long_work(
    monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        InputError, match=r"^optim\.name=adam8bit: expected adam or adafactor, or bitsandbytes installed"
    ):
        train_alone(make("out", "optim.name=adam8bit"))


def test_eight_bits_need_a_cuda_device() -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(InputError, match=r"^optim\.name=adam8bit: expected adam or adafactor on a CPU"):
        refuse_unusable("adam8bit", CPU)


@pytest.mark.cuda
def test_eight_bits_train_on_a_gpu_and_take_a_quarter_of_adams_state() -> None:
    pytest.importorskip("bitsandbytes")
    refuse_unusable("adam8bit", torch.device("cuda"))
    config = compose(["sae=topk", "sae.d_sae=512", "sae.k=8", "optim=adam8bit"])
    statistics = ActivationStatistics(1.0, torch.zeros(D_IN))
    device = torch.device("cuda")
    training = begin_training(config.sae, config.optim, statistics, Masks({}), steps=40, seed=0, device=device)
    losses: list[float] = []
    for step in range(40):
        x_BD = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(step % 4)).to(device)
        training.learn(Batch(x_BD, x_BD, 0.0))
        assert training.output is not None
        losses.append(training.output.loss.item())
    assert losses[-1] < losses[0]
    assert held_bytes(training) < 0.3 * state_bytes("adam", D_IN, 512)
