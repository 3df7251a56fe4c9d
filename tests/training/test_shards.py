"""Steps of several processes that each have a part of the latents are the steps of one that has all."""

from typing import Any

import pytest
import torch
from torch import Tensor

from masked_sae.runs.checkpoint import Checkpoint
from masked_sae.training.restoring import capture, restore
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.shards import mean_threshold
from support.architectures import ARCHITECTURES, TOPK_FAMILY
from support.ranks import Processes, processes
from support.stepping import D_SAE, STEPS, make_batch, make_training

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
MIDDLE = STEPS // 2


def options(architecture: str, **others: Any) -> dict[str, Any]:
    return ({"orthogonality": 0.0} if architecture in TOPK_FAMILY else {}) | others


def trained_alone(
    architecture: str, first: int, last: int, checkpoint: Checkpoint | None = None, **others: Any
) -> SAETraining:
    training = make_training(architecture, **options(architecture, **others))
    if checkpoint is not None:
        restore(training, checkpoint)
    for step in range(first, last):
        training.learn(make_batch(step))
    return training


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """In float64, to round-off."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        same = torch.allclose(found[name].to(tensor.dtype), tensor, rtol=1e-9, atol=1e-10)
        assert same, (name, found[name], tensor)


@every_architecture
@pytest.mark.parametrize("shapes", ["static", "dynamic"])
def test_two_train_as_one_with_masks_dead_latents_and_clipping(two: Processes, architecture: str, shapes: str) -> None:
    expected = trained_alone(architecture, 0, STEPS, shapes=shapes)
    assert expected.output is not None and expected.output.dead > 0
    first, second = two.call("train_in_shards", architecture, 0, STEPS, options(architecture, shapes=shapes))
    assert first["latents"] == second["latents"] == D_SAE // 2
    for found in (first, second):
        assert_same(found["output"], vars(expected.output))
        assert torch.allclose(found["threshold"], mean_threshold(expected))
    assert_same(first["checkpoint"].tensors, capture(expected, {}).tensors)
    assert_same(first["weights"], expected.sae.state_dict())


@every_architecture
def test_four_train_as_one(four: Processes, architecture: str) -> None:
    expected = trained_alone(architecture, 0, STEPS)
    found = four.call("train_in_shards", architecture, 0, STEPS, options(architecture))
    assert_same(found[0]["checkpoint"].tensors, capture(expected, {}).tensors)


@every_architecture
def test_what_is_compiled_is_divided_likewise(two: Processes, architecture: str) -> None:
    expected = trained_alone(architecture, 0, STEPS, shapes="static")
    given = options(architecture, shapes="static", compiler="aot_eager")
    found = two.call("train_in_shards", architecture, 0, STEPS, given)
    assert_same(found[0]["checkpoint"].tensors, capture(expected, {}).tensors)


@every_architecture
def test_one_goes_on_from_where_two_were_and_two_from_where_one_was(two: Processes, architecture: str) -> None:
    expected = capture(trained_alone(architecture, 0, STEPS), {})
    by_two = two.call("train_in_shards", architecture, 0, MIDDLE, options(architecture))[0]["checkpoint"]
    assert_same(capture(trained_alone(architecture, MIDDLE, STEPS, by_two), {}).tensors, expected.tensors)
    by_one = capture(trained_alone(architecture, 0, MIDDLE), {})
    found = two.call("train_in_shards", architecture, MIDDLE, STEPS, options(architecture), by_one)[0]
    assert found["step"] == STEPS
    assert_same(found["checkpoint"].tensors, expected.tensors)


def test_a_plain_step_of_a_price_is_divided_likewise(two: Processes) -> None:
    expected = trained_alone("gated", 0, MIDDLE, reference=True)
    found = two.call("train_in_shards", "gated", 0, MIDDLE, options("gated", reference=True))[0]
    assert_same(found["checkpoint"].tensors, capture(expected, {}).tensors)


def test_groups_may_end_within_a_part_or_at_its_end(four: Processes) -> None:
    """Four parts of 16 latents: the groups end at 5, 16, 41 and 64."""
    groups: dict[str, Any] = {"groups": [5, 11, 25, 23], "group_weights": None}
    expected = trained_alone("matryoshka", 0, MIDDLE, **groups)
    found = four.call("train_in_shards", "matryoshka", 0, MIDDLE, options("matryoshka", **groups))[0]
    assert_same(found["checkpoint"].tensors, capture(expected, {}).tensors)


def test_a_run_that_has_not_begun_is_divided_as_it_was_drawn(two: Processes) -> None:
    found = two.call("train_in_shards", "topk", 0, 0, options("topk"))[0]
    drawn = capture(make_training("topk", **options("topk")), {})
    for name, tensor in drawn.tensors.items():
        assert torch.equal(found["checkpoint"].tensors[name], tensor), name


@pytest.mark.slow
def test_each_of_two_holds_half(two: Processes) -> None:
    """An SAE that takes 1 GB with Adam's moments, and as much of gradients as of weights while it steps."""
    d_in, d_sae = 512, 87_040
    parts = two.call("growth", d_in, d_sae, True)
    with processes(1) as one:
        (alone,) = one.call("growth", d_in, d_sae, False)
    assert 1.0e9 < alone["kept"] < 1.2e9
    for part in parts:
        assert 0.49 < part["kept"] / alone["kept"] < 0.51
        assert 0.45 < part["resident"] / alone["resident"] < 0.56
