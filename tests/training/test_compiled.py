"""A step as torch.compile makes it is the step, and nothing is compiled anew on the way."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from masked_sae.config import check
from masked_sae.errors import InputError
from masked_sae.masks.run_masks import Masks
from masked_sae.training.compiled import compiled, forget_compiled
from masked_sae.training.sae_training import SAETraining
from support.architectures import ARCHITECTURES, TOPK_FAMILY
from support.composing import compose
from support.stepping import MASKS, NO_MASKS, STEPS, make_batch, make_training

SETTLED = 12  # steps; by then penalties have warmed up, and latents have died
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


def trained(architecture: str, masks: Masks, compiler: str | None, **options: Any) -> SAETraining:
    training = make_training(architecture, masks, shapes="static", compiler=compiler, **options)
    for step in range(STEPS):
        settled = step >= SETTLED and compiler is not None
        with torch.compiler.set_stance("fail_on_recompile" if settled else "default"):
            training.learn(make_batch(step))
    return training


def kept_of(training: SAETraining) -> dict[str, Tensor]:
    """What steps change, and what the latest told."""
    told = {name: tensor.detach() for name, tensor in vars(training.output).items()}
    return dict(training.sae.named_parameters()) | dict(training.sae.named_buffers()) | told


def assert_close(found: SAETraining, expected: SAETraining) -> None:
    kept = kept_of(expected)
    assert kept["dead"] > 0
    for name, tensor in kept_of(found).items():
        assert torch.allclose(tensor, kept[name], rtol=1e-9, atol=1e-10), (name, tensor, kept[name])


@every_architecture
@pytest.mark.parametrize("masks", [MASKS, NO_MASKS], ids=["masks", "no masks"])
def test_what_is_traced_is_the_step(architecture: str, masks: Masks) -> None:
    assert_close(trained(architecture, masks, "aot_eager"), trained(architecture, masks, None))


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
def test_a_step_without_masks_of_latents_is_one_graph(architecture: str) -> None:
    trained(architecture, NO_MASKS, "aot_eager", orthogonality=0.0)
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] == 1
    assert not counted["graph_break"]


@pytest.mark.slow
@every_architecture
def test_what_is_compiled_is_the_step(architecture: str) -> None:
    assert_close(trained(architecture, NO_MASKS, "inductor"), trained(architecture, NO_MASKS, None))


def test_any_number_of_saes_is_compiled_in_a_process() -> None:
    graphs: list[int] = []
    with torch._dynamo.config.patch(accumulated_recompile_limit=3):
        for _ in range(5):
            torch._dynamo.utils.counters.clear()
            make_training("topk", NO_MASKS, shapes="static", compiler="aot_eager").learn(make_batch(0))
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            forget_compiled()
    assert graphs == [1] * 5


@pytest.mark.parametrize("overrides", [[], ["sae.shapes=dynamic", "trainer.device=cuda"]])
def test_sizes_that_change_are_not_compiled(overrides: list[str]) -> None:
    with pytest.raises(InputError, match=r"trainer\.compile=True: expected false, or sae\.shapes=static beside it"):
        check(compose(["trainer.compile=true", *overrides]))
    for static in (["sae.shapes=static"], ["trainer.device=cuda"]):
        check(compose(["trainer.compile=true", *static]))


@pytest.mark.parametrize("chosen", [None, default_cache_dir(), "another"])
def test_what_is_compiled_is_kept_among_the_other_caches(
    chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKED_SAE_CACHE", str(tmp_path / "own"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if chosen is not None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / chosen))
    number = random.random()  # nobody has compiled it before
    compiled(lambda x: torch.sin(x) * number, "inductor")(torch.ones(3))
    (kept,) = tmp_path.iterdir()
    assert kept.name == (chosen if chosen == "another" else "own") and any(kept.rglob("*.so"))


def test_a_machine_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    double = compiled(lambda x: torch.sin(x) * 2, "inductor")
    with pytest.raises(InputError, match=r"trainer\.compile=True: expected false, or what"):
        double(torch.ones(3))
