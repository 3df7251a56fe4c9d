"""SAEs trained on activations of one's own: the same as a run's steps, whatever the activations are in."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from masked_sae import TrainedSAE, load_sae, optim_settings, sae_settings, train
from masked_sae.config import OptimSettings
from masked_sae.errors import InputError, NonFiniteError
from masked_sae.interop.saelens import weights_digest
from masked_sae.saes.settings import SAESettings
from support.architectures import ARCHITECTURES, TOPK_FAMILY

D_IN = 16


def sparse_sums(count: int = 2000, seed: int = 0) -> Tensor:
    """Sums of a few of 24 directions, far from mean squared norm `d_in`, and not around 0."""
    generator = torch.Generator().manual_seed(seed)
    directions_FD = torch.nn.functional.normalize(torch.randn(24, D_IN, generator=generator), dim=1)
    f_BF = (torch.rand(count, 24, generator=generator) < 0.1) * torch.rand(count, 24, generator=generator)
    return 30 * (f_BF @ directions_FD) + 5


@cache
def settings_of(architecture: str) -> SAESettings:
    with_k = architecture in TOPK_FAMILY
    changes: dict[str, Any] = {"k": 3, "aux_k": 8} if with_k else {"sparsity_coefficient": 1.0}
    return sae_settings(architecture, d_sae=48, **changes)


@cache
def optim() -> OptimSettings:
    return optim_settings(warmup_steps=5)


def small(activations: Any, sae: Any = None, **changes: Any) -> TrainedSAE:
    return train(activations, sae or settings_of("batch_topk"), **({"batch_size": 128, "optim": optim()} | changes))


def assert_same(one: TrainedSAE, other: TrainedSAE) -> None:
    for name, value in vars(one.sae).items():
        if isinstance(value, Tensor):
            assert torch.equal(value, vars(other.sae)[name]), name
    assert one.curve.equals(other.curve) and one.metrics == other.metrics


def differ(one: TrainedSAE, other: TrainedSAE) -> bool:
    return not torch.equal(one.sae.W_dec_FD, other.sae.W_dec_FD)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_architecture_learns_to_reconstruct_with_the_l0_that_is_asked_for(architecture: str) -> None:
    trained = small(sparse_sums(4000), settings_of(architecture), train_tokens=40_000, held_out_share=0.25)
    assert trained.metrics is not None and trained.metrics.explained_variance > 0.5
    assert trained.metrics.tokens == 750  # three quarters of those that are held out
    if architecture in TOPK_FAMILY:
        assert trained.metrics.l0 == pytest.approx(3, abs=0.4)
    assert trained.curve["explained_variance"].iloc[-1] > trained.curve["explained_variance"].iloc[0]
    assert trained.curve["step"].iloc[-1] == 40_000 // 128
    torch.testing.assert_close(trained.sae.W_dec_FD.norm(dim=1), torch.ones(48))


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    x_PD = sparse_sums()
    assert_same(small(x_PD), small(x_PD.clone()))
    assert differ(small(x_PD), small(x_PD, seed=1))


def test_it_matters_not_what_the_activations_are_in(tmp_path: Path) -> None:
    x_PD = sparse_sums()
    expected = small(x_PD)
    np.save(tmp_path / "x.npy", x_PD.numpy())
    save_file({"x": x_PD}, tmp_path / "x.safetensors")
    mapped = np.memmap(tmp_path / "x.bin", dtype=np.float32, mode="w+", shape=tuple(x_PD.shape))
    mapped[:] = x_PD.numpy()
    for given in (x_PD.numpy(), mapped, tmp_path / "x.npy", str(tmp_path / "x.npy"), tmp_path / "x.safetensors"):
        assert_same(small(given), expected)


def test_global_random_state_has_no_part_in_it() -> None:
    x_PD = sparse_sums()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = small(x_PD)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert_same(one, small(x_PD))


def test_every_activation_is_trained_on_once_before_any_comes_again() -> None:
    """Of activations that all have a direction of their own, one epoch fires each latent's row where it should."""
    from masked_sae.api.activations import ShuffledRows, open_activations

    rows = open_activations(torch.arange(60, dtype=torch.float32)[:, None].expand(60, 3)).part(10, 50)
    batches = ShuffledRows(rows, 8, 3, torch.device("cpu"))
    first, second = (torch.cat([batches.batch(i)[:, 0] for i in range(start, start + 5)]) for start in (0, 5))
    for epoch in (first, second):
        assert sorted(epoch.tolist()) == list(range(10, 50))
    assert first.tolist() != second.tolist() != sorted(second.tolist())
    assert torch.equal(batches.batch(7), batches.batch(7))


def test_what_is_held_out_is_not_trained_on() -> None:
    x_PD = sparse_sums()
    other_PD = x_PD.clone()
    other_PD[-100:] = other_PD[-100:] * 0.9  # other held-out activations, the same training
    one, other = small(x_PD), small(other_PD)
    assert torch.equal(one.sae.W_enc_DF, other.sae.W_enc_DF) and one.curve.equals(other.curve)
    assert one.metrics != other.metrics


def test_without_held_out_activations_the_learned_thresholds_stay() -> None:
    trained = small(sparse_sums(), held_out_share=0)
    assert trained.metrics is None and trained.sae.threshold_F is not None and bool((trained.sae.threshold_F > 0).all())


class Counted(np.ndarray[Any, np.dtype[np.float32]]):
    """Rows of a large file, as it were: rows that overlap in little memory. Counts what is read."""

    reads: list[int]

    def __getitem__(self, rows: Any) -> Any:
        self.reads.append(len(rows))
        return np.asarray(self)[rows]


def test_of_many_activations_those_are_read_that_are_needed() -> None:
    numbers = np.random.default_rng(0).standard_normal(3_000_000 + D_IN).astype(np.float32)
    x_PD = np.lib.stride_tricks.sliding_window_view(numbers, D_IN).view(Counted)
    x_PD.reads = []
    trained = small(x_PD, train_tokens=1280)
    assert trained.curve["tokens"].iloc[-1] == 1280
    assert sum(x_PD.reads) == 16_384 + 1280 + 32_768 + 65_536  # scale, steps, thresholds, metrics
    assert max(x_PD.reads) == 16_384


@pytest.mark.parametrize("mask", ["latent", "input"])
def test_masks_that_need_no_text_hide_and_change_what_is_learned(mask: str) -> None:
    x_PD = sparse_sums()
    masked = small(x_PD, masks={mask: 0.3})
    assert differ(masked, small(x_PD)) and differ(masked, small(x_PD, masks={mask: 0.2}))
    assert_same(masked, small(x_PD, masks={mask: 0.3}))
    assert_same(small(x_PD, masks={mask: 0.0}), small(x_PD))


def test_it_is_saved_and_loaded_to_the_bit(tmp_path: Path) -> None:
    trained = small(sparse_sums(), model_name="my-lm", hook_name="blocks.1.hook_resid_post")
    folder = trained.save(tmp_path / "sae")
    loaded = load_sae(folder)
    x_PD = sparse_sums(50, seed=9)
    assert torch.equal(loaded.encode(x_PD), trained.sae.encode(x_PD)) and torch.equal(loaded(x_PD), trained.sae(x_PD))
    assert (loaded.model_name, loaded.hook_name) == ("my-lm", "blocks.1.hook_resid_post")
    assert len(weights_digest(folder)) == 64
    with pytest.raises(InputError, match="folder="):
        trained.save(folder)


def test_an_activation_that_is_not_finite_is_named() -> None:
    x_PD = sparse_sums()
    x_PD[321, 5] = torch.nan
    with pytest.raises(NonFiniteError, match="row 321 of the activations"):
        small(x_PD)
    with pytest.raises(NonFiniteError, match="all zero"):
        small(torch.zeros(1000, 4))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"activations": torch.zeros(3, 4, 5)}, "activations=the activations of shape"),
        ({"activations": torch.zeros(0, 5)}, "activations=the activations of shape"),
        ({"activations": torch.zeros(9, 5, dtype=torch.long)}, "expected floating-point numbers"),
        ({"activations": "nowhere.npy"}, "activations=nowhere.npy: expected a file that exists"),
        ({"sae": "sparse"}, "sae=sparse: expected one of balanced_matryoshka, batch_topk"),
        ({"masks": {"token": 0.2}}, "mask=token: expected masks of inputs or latents"),
        ({"masks": {"words": 0.2}}, "mask=words: expected one of"),
        ({"masks": {"latent": 1.0}}, "mask.latent.rate=1.0: expected"),
        ({"train_tokens": 100}, "data.train_tokens=100: expected at least data.batch_size=128"),
        ({"batch_size": 0}, "data.batch_size=0: expected at least 1"),
        ({"held_out_share": 1.0}, "data.validation_share=1.0: expected"),
        ({"seed": -1}, "seed=-1: expected at least 0"),
        ({"device": "cuda"}, "trainer.device=cuda: expected cpu or auto"),
    ],
)
def test_mistakes_are_told_in_one_line(given: dict[str, Any], line: str) -> None:
    if given.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError) as told:
        small(**({"activations": sparse_sums(500)} | given))
    assert line in str(told.value) and "\n" not in str(told.value)


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.ones(4, 3), "y": torch.ones(4, 3)}, tmp_path / "two.safetensors")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "x.pt").write_bytes(b"no")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    for name, line in {
        "two.safetensors": "with one tensor; it has 2",
        "objects.npy": "an array that NumPy saved",
        "x.pt": ".npy or .safetensors",
        "x.safetensors": "a file of safetensors",
    }.items():
        with pytest.raises(InputError, match=line):
            small(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("topk", {"k": 0}, "sae.k=0: expected 1 to"),
        ("topk", {"price": 3}, "sae.price=3: expected a setting of topk: "),
        ("relu", {"k": 3}, "sae.k=3: expected a setting of relu: "),
        ("matryoshka", {"group_fractions": [0.5]}, "sae.group_fractions="),
    ],
)
def test_settings_are_those_of_the_command_line(name: str, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        sae_settings(name, **changes)
    with pytest.raises(InputError, match=r"optim.speed=3: expected a setting of the optimizer"):
        optim_settings(speed=3)
