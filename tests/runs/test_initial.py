"""A run that begins with another's SAE: the same weights and scale at its first step, and an id that says so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch
from safetensors.torch import load_file

from masked_sae.errors import InputError
from masked_sae.interop.loading import load_sae
from masked_sae.interop.saelens import export_sae
from masked_sae.runs.checkpoint import LAST, load_checkpoint
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import read_state, write_state
from masked_sae.saes import for_inference
from masked_sae.training.train_pack import train_pack
from masked_sae.training.train_run import train_run
from support.architectures import trained
from support.composing import small_config
from support.damage import Damage
from support.processes import assert_same_run

Make = Callable[..., Run]
FLIPPED = Damage("flip", 0.99, b"")


@pytest.fixture(scope="module")
def former(neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(small_config(neox_folder, corpus_folder, tmp_path_factory.mktemp("former"), "seed=3"), {})
    assert train_run(run).status == "done"
    return run


@pytest.fixture
def make(former: Run, neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Make:
    def made(*overrides: str, source: Path = former.folder.path, out: str = "runs") -> Run:
        fixed = [f"init_from={source}", "eval.families=[core]"]
        return make_run(small_config(neox_folder, corpus_folder, tmp_path / out, *fixed, *overrides), {})

    return made


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "matryoshka", "relu", "jumprelu", "gated"])
def test_without_a_step_that_counts_it_is_the_sae_that_it_began_with(
    architecture: str, make: Make, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    """Trained at almost no learning rate it ends where the former one ended, at the former one's scale."""
    config = small_config(neox_folder, corpus_folder, tmp_path / "former", f"sae={architecture}", "eval=none")
    former = make_run(config, {})
    train_run(former)
    run = make(f"sae={architecture}", "optim.lr=1e-12", "data.scale_tokens=64", source=former.folder.path)
    train_run(run)
    began, ended = (load_checkpoint(one.folder.checkpoints) for one in (former, run))
    assert began is not None and ended is not None
    assert ended.meta["statistics"] == began.meta["statistics"]
    for name in (name for name in began.tensors if name.startswith("sae/") and name.endswith(("_F", "_FD", "_D"))):
        if name != "sae/silent_for_F":
            torch.testing.assert_close(ended.tensors[name], began.tensors[name], rtol=1e-5, atol=1e-6)


def test_it_goes_on_learning_and_is_told_apart_by_content(make: Make, former: Run, tmp_path: Path) -> None:
    run, fresh = make(), make_run(replace(make().config, init_from=None), {})
    copied = make(source=copytree(former.folder.path, tmp_path / "elsewhere"))
    assert run.folder.run_id == copied.folder.run_id != fresh.folder.run_id
    assert run.shares is not None and fresh.shares is not None
    assert run.shares.forwards == fresh.shares.forwards and run.shares.batches != fresh.shares.batches
    train_run(run)
    train_run(fresh)
    began, ended, other = (decoder(one) for one in (former, run, fresh))
    assert 0 < (ended - began).norm() < (other - began).norm()


def decoder(run: Run) -> torch.Tensor:
    checkpoint = load_checkpoint(run.folder.checkpoints)
    assert checkpoint is not None
    return checkpoint.tensors["sae/W_dec_FD"]


def test_packed_it_is_what_it_is_alone(make: Make) -> None:
    settings = ["data.seed=0"], ["data.seed=0", "sae.k=8"]
    packed = [make(*one) for one in settings]
    assert {outcome.state.status for outcome in train_pack(packed) if outcome.state} == {"done"}
    for run, one in zip(packed, settings, strict=True):
        alone = make(*one, out="alone")
        train_run(alone)
        assert_same_run(run.folder, alone.folder)


@pytest.mark.parametrize("wrong", ["nothing", "unfinished", "no checkpoint", "damaged weights"])
def test_what_is_no_run_that_is_done_is_refused_before_anything_is_made(
    wrong: str, make: Make, former: Run, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    if wrong != "nothing":
        copytree(former.folder.path, source)
    folder = replace(former.folder, path=source)
    if wrong == "unfinished":
        state = read_state(folder.state)
        assert state is not None
        write_state(folder.state, state, status="preempted")
    if wrong == "no checkpoint":
        rmtree(folder.checkpoints)
    if wrong == "damaged weights":
        FLIPPED.do(folder.sae / "sae_weights.safetensors")
    with pytest.raises(InputError, match="a run that is done") as info:
        make(source=source)
    assert info.value.key == "init_from" and not (tmp_path / "runs" / "runs").exists()


def test_a_damaged_checkpoint_is_refused_before_there_is_a_folder(make: Make, former: Run, tmp_path: Path) -> None:
    source = copytree(former.folder.path, tmp_path / "source")
    for path in (source / "checkpoints").iterdir():
        FLIPPED.do(path)
    run = make(source=source)
    with pytest.raises(InputError, match="checkpoint of its last step"):
        train_run(run)
    assert not run.folder.path.exists() and (source / "checkpoints" / LAST).exists()


@pytest.mark.parametrize("other", ["sae=topk", "sae.d_sae=32"])
def test_another_architecture_or_size_is_named(other: str, make: Make) -> None:
    with pytest.raises(InputError, match=r"sae=\w+ sae\.d_sae=\d+, as this one is; it is one of sae=matryoshka"):
        make(other)


SAVED = Path(__file__).parents[1] / "interop" / "dictionary_learning"


@pytest.mark.parametrize(("architecture", "saved"), [("jumprelu", "jumprelu"), ("topk", "topk"), ("gated", "gated")])
def test_without_a_step_that_counts_it_is_the_sae_of_somebody_else_that_it_began_with(
    architecture: str, saved: str, make: Make
) -> None:
    """What is exported computes as that did, though it was trained at a scale of its own."""
    settings = [f"sae={architecture}", "sae.d_sae=24", "optim.lr=1e-12", "sae.calibrate=none", "eval=none"]
    run = make(*settings, source=SAVED / saved)
    assert train_run(run).status == "done"
    (theirs, _), (ours, _) = load_sae(SAVED / saved), load_sae(run.folder.sae)
    x_BD = load_file(SAVED / "encodings.safetensors")["x"]
    torch.testing.assert_close(ours.encode(x_BD), theirs.encode(x_BD), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours(x_BD), theirs(x_BD), rtol=1e-3, atol=1e-3)


def test_a_run_is_named_for_the_content_of_the_sae_that_it_begins_with(make: Make, tmp_path: Path) -> None:
    settings = ["sae=topk", "sae.d_sae=24"]
    first = make(*settings, source=SAVED / "topk")
    copied = make(*settings, source=copytree(SAVED / "topk", tmp_path / "copied"))
    other = make(*settings, source=SAVED / "batch_topk")
    assert first.folder.run_id == copied.folder.run_id != other.folder.run_id


@pytest.mark.parametrize(
    ("saved", "settings", "said"),
    [
        ("topk", ["sae=topk"], "an SAE of sae.d_sae=64, as this run's is; it has 24 latents"),
        ("nowhere", ["sae=topk"], "the folder of a run that is done, or an SAE: a folder that exists, or a name"),
    ],
)
def test_an_sae_of_another_size_or_none_is_refused_before_anything_is_made(
    saved: str, settings: list[str], said: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as info:
        make(*settings, source=SAVED / saved)
    assert info.value.key == "init_from" and not (tmp_path / "runs" / "runs").exists()


def test_what_the_architecture_cannot_say_is_refused_before_there_is_a_folder(make: Make) -> None:
    run = make("sae=relu", "sae.d_sae=24", source=SAVED / "topk")
    with pytest.raises(InputError, match="sae=relu can go on from, of latents that are active where they are positive"):
        train_run(run)
    assert not run.folder.path.exists()


def test_an_sae_of_other_activations_is_refused_before_there_is_a_folder(make: Make, tmp_path: Path) -> None:
    export_sae(tmp_path / "sae", for_inference(trained("topk"), 1.0), {})
    run = make("sae=topk", source=tmp_path / "sae")
    with pytest.raises(InputError, match=r"of d_in 32 and sae\.d_sae=64, as they are here; it has 16 and 64"):
        train_run(run)
    assert not run.folder.path.exists()
