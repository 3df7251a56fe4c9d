"""Where an LM runs, and what of it is handed to where the SAEs are. With two devices: the tests marked `cuda`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves

from masked_sae.activations.boot import mapped
from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.lm_device import find_lm_device, is_apart, runs_ahead, share_beside
from masked_sae.activations.settings import LMSettings
from masked_sae.errors import InputError
from masked_sae.runs.run import make_run
from masked_sae.training.train_run import train_run
from support.composing import small_config
from support.making import HOOK, compose

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def settings(**changes: Any) -> LMSettings:
    return LMSettings(name="x", hook_name=HOOK, dtype="float32", batch_size=1, **changes)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as counting goes: nothing is put there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("lm", "saes", "found", "apart", "beside", "auto"),
    [
        ({}, CPU, "cpu", False, 1, False),
        ({}, GPU, "cuda", False, 1, False),
        ({"device": "cpu"}, CPU, "cpu", False, 1, False),
        ({"device": "cpu"}, GPU, "cpu", True, 0, True),
        ({"device": "cuda"}, CPU, "cuda", True, 0, True),
        ({"device": "cuda"}, GPU, "cuda", False, 1, False),
        ({"device": "cuda:0"}, GPU, "cuda:0", False, 1, False),
        ({"device": "cuda:1"}, GPU, "cuda:1", True, 0, True),
        ({"device_map": "2"}, GPU, "cuda", False, 0.5, True),
        ({"device_map": "auto"}, GPU, "cuda", False, 0.5, True),
        ({"device_map": "auto"}, CPU, "cpu", False, 1, False),
    ],
)
def test_the_settings_tell_where_it_runs_and_what_follows(
    lm: dict[str, str], saes: torch.device, found: str, apart: bool, beside: float, auto: bool, two_gpus: None
) -> None:
    chosen = settings(**lm)
    assert find_lm_device(chosen, saes) == torch.device(found)
    assert is_apart(chosen, saes) == apart and share_beside(chosen, saes) == beside
    assert runs_ahead("auto", chosen, saes) == auto
    assert runs_ahead("true", chosen, saes) and not runs_ahead("false", chosen, saes)


@pytest.mark.parametrize("change", [{"device": "cuda:2"}, {"device_map": "3"}])
def test_a_gpu_that_is_not_there_is_refused(change: dict[str, str], two_gpus: None) -> None:
    with pytest.raises(InputError, match=r"2|cuda:0 to cuda:1"):
        find_lm_device(settings(**change), GPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("change", [{"device": "cuda"}, {"device": "cuda:0"}, {"device_map": "2"}])
def test_without_a_gpu_none_is_accepted(change: dict[str, str]) -> None:
    with pytest.raises(InputError, match="this machine"):
        find_lm_device(settings(**change), CPU)


@pytest.mark.parametrize(
    "wrong", ["lm.device=gpu", "lm.device=cuda:x", "lm.device_map=1", "lm.device_map=disk", "lm.device_map=two"]
)
def test_what_is_no_device_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        compose([wrong]).lm.check()


def test_a_map_and_a_device_are_refused_together() -> None:
    with pytest.raises(InputError, match=r"^lm\.device_map=auto: expected null beside lm\.device=cpu"):
        compose(["lm.device=cpu", "lm.device_map=auto"]).lm.check()


def test_the_library_is_given_a_number_or_its_own_words() -> None:
    assert mapped("2") == {"n_devices": 2} and mapped("balanced") == {"device_map": "balanced"}


@pytest.mark.parametrize("device_map", ["auto", "balanced", "sequential"])
def test_a_map_over_one_device_is_the_lm_on_it(device_map: str, neox: LM, neox_folder: Path) -> None:
    lm = load_lm(str(neox_folder), HOOK, device_map=device_map)
    tokens_NT = torch.arange(1, 41).view(2, 20)
    assert lm.device == CPU
    assert torch.equal(lm.activations(tokens_NT), neox.activations(tokens_NT))
    assert torch.equal(lm.logits(tokens_NT), neox.logits(tokens_NT))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_what_the_library_refuses_is_told_with_the_key(neox_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^lm\.device_map=2: .*requires CUDA"):
        load_lm(str(neox_folder), HOOK, device_map="2")


class OfSAEs(torch.Tensor):
    """A tensor where the SAEs are. Any operation between it and another that is not is refused."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
            several = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor) and one.dim() > 0]
        if not all(isinstance(one, cls) for one in several):
            raise AssertionError(f"{func} of both sides")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_an_edit_gets_and_gives_activations_of_the_saes_side(neox: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the LM gives is carried over, whole, before anybody computes with it, and what takes its place is carried
    back.
    """
    tokens_NT = torch.arange(1, 41).view(2, 20)
    plain_NTD, plain_NTV = neox.activations(tokens_NT), neox.logits(tokens_NT, lambda x_NTD: x_NTD / 2)
    given = LM.given

    def marked(self: LM, value: torch.Tensor) -> torch.Tensor:
        return given(self, value).as_subclass(OfSAEs)

    monkeypatch.setattr(LM, "given", marked)
    seen: list[torch.Tensor] = []

    def edit(x_NTD: torch.Tensor) -> torch.Tensor:
        seen.append(x_NTD)
        with pytest.raises(AssertionError, match="both sides"):
            _ = x_NTD + torch.ones_like(plain_NTD)
        return (x_NTD / 2).as_subclass(torch.Tensor)

    assert type(neox.activations(tokens_NT)) is OfSAEs
    assert torch.equal(neox.logits(tokens_NT, edit), plain_NTV)
    assert type(seen[0]) is OfSAEs and torch.equal(seen[0].as_subclass(torch.Tensor), plain_NTD)


@pytest.mark.cuda
@pytest.mark.parametrize(("lm", "saes"), [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize("ahead", ["true", "false"])
def test_lm_and_saes_are_trained_and_measured_apart(
    lm: str, saes: str, ahead: str, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    measured = ["eval=full", "eval.concepts=[token_class]", f"eval.cache_dir={tmp_path / 'cache'}"]
    where = [f"lm.device={lm}", f"trainer.device={saes}", f"data.ahead={ahead}"]
    run = make_run(small_config(neox_folder, corpus_folder, tmp_path, *where, *measured), {})
    assert train_run(run).status == "done"


@pytest.mark.cuda
def test_windows_ahead_on_a_gpu_are_those_made_in_turn(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    weights: list[dict[str, torch.Tensor]] = []
    for ahead in ("true", "false"):
        place = tmp_path / ahead
        run = make_run(
            small_config(neox_folder, corpus_folder, place, "trainer.device=cuda", f"data.ahead={ahead}"), {}
        )
        train_run(run)
        weights.append(load_file(run.folder.sae / "sae_weights.safetensors"))
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-2, atol=1e-3, msg=name)
