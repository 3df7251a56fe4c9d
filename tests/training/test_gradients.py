"""Steps of several processes on their rows of each batch are the steps of one on all of it."""

from typing import Any

import pytest
import torch

from support.architectures import ARCHITECTURES
from support.ranks import Processes
from support.stepping import STEPS, make_batch, make_training

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def alone(architecture: str, steps: int = STEPS, **options: Any) -> dict[str, Any]:
    training = make_training(architecture, **options)
    for step in range(steps):
        training.learn(make_batch(step))
    return {"weights": training.sae.state_dict(), "output": vars(training.output), "step": training.step}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """In float64, to round-off."""
    assert found["step"] == expected["step"]
    for kind in ("weights", "output"):
        for name, tensor in expected.get(kind, {}).items():
            same = torch.allclose(found[kind][name].to(tensor.dtype), tensor, rtol=1e-9, atol=1e-10)
            assert same, (name, found[kind][name], tensor)


@every_architecture
@pytest.mark.parametrize("shapes", ["static", "dynamic"])
def test_two_train_as_one_with_masks_dead_latents_and_clipping(two: Processes, architecture: str, shapes: str) -> None:
    expected = alone(architecture, shapes=shapes)
    assert expected["output"]["dead"] > 0
    for found in two.call("train", architecture, STEPS, {"shapes": shapes}):
        assert_same(found, expected)


@every_architecture
def test_four_train_as_one(four: Processes, architecture: str) -> None:
    expected = alone(architecture)
    for found in four.call("train", architecture, STEPS, {}):
        assert_same(found, expected)


@every_architecture
def test_the_plain_version_is_divided_likewise(two: Processes, architecture: str) -> None:
    expected = alone(architecture, 8, reference=True)
    for found in two.call("train", architecture, 8, {"reference": True}):
        assert_same(found, expected)


@every_architecture
def test_all_ranks_have_the_same_bits(four: Processes, architecture: str) -> None:
    first, *others = four.call("train", architecture, STEPS, {})
    for found in others:
        for name, tensor in first["weights"].items():
            assert torch.equal(found["weights"][name], tensor), name


@every_architecture
def test_others_go_on_from_where_one_is(two: Processes, architecture: str) -> None:
    expected = alone(architecture)
    for found in two.call("begin_elsewhere", architecture, STEPS // 2):
        assert_same(found, {"weights": expected["weights"], "step": STEPS})


@every_architecture
def test_what_is_compiled_is_divided_likewise(two: Processes, architecture: str) -> None:
    expected = alone(architecture, shapes="static")
    for found in two.call("train", architecture, STEPS, {"shapes": "static", "compiler": "aot_eager"}):
        assert_same(found, expected)
