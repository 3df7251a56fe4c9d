"""A whole training step: the same with shapes of either kind as by the plain version, and without the host waiting."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from masked_sae.saes.penalty_family import MOST
from support.architectures import ARCHITECTURES, TOPK_FAMILY
from support.stepping import D_IN, D_SAE, make_batch, make_sae, make_training, weights_after

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
ASKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}  # as torch says it of its own operations
BY_INDEX = ("index", "index_put", "index_put_", "_index_put_impl_")  # these wait where the index is a mask


class NoWaiting(TorchDispatchMode):
    """Refuses operations that read numbers of the device: of them the host's code or a size would depend."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if waits(func, args):
            raise RuntimeError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def waits(func: Any, args: Any) -> bool:
    if func.overloadpacket.__name__ in BY_INDEX:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return bool(ASKS & set(func.tags))


def assign(x: Tensor) -> None:
    x[x > 0] = x[:1].expand((x > 0).sum())


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        assign,
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.long().clamp_min(0).bincount(),
        lambda x: x.repeat_interleave(x.long().clamp_min(0)),
        lambda x: range(int(x.argmax())),
        lambda x: torch.equal(x, -x),
    ],
)
def test_what_waits_is_refused(asks: Callable[[Tensor], object]) -> None:
    x = torch.tensor([3.0, -1.0, 2.0])
    asks(x.clone())
    with NoWaiting(), pytest.raises(RuntimeError, match="waits for the device"):
        asks(x.clone())


def test_an_index_of_numbers_waits_for_nothing() -> None:
    x, places = torch.zeros(4), torch.tensor([2, 0])
    with NoWaiting():
        x[places] = x[places] + 1
    assert x.tolist() == [1, 0, 1, 0]


@every_architecture
def test_with_static_shapes_a_step_never_waits_for_the_device(architecture: str) -> None:
    training = make_training(architecture, shapes="static")
    batches = [make_batch(step) for step in range(8)]
    with NoWaiting():
        for batch in batches:  # before latents are dead and after
            training.learn(batch)
    assert training.output is not None and training.output.dead > 0


@every_architecture
def test_with_dynamic_shapes_it_does(architecture: str) -> None:
    with NoWaiting(), pytest.raises(RuntimeError, match="waits for the device"):
        make_training(architecture, shapes="dynamic").learn(make_batch(0))


@pytest.fixture
def sparse_products_have_shapes() -> Iterator[None]:
    """torch knows no shape of `sampled_addmm`'s result, which is its pattern's."""
    library = torch.library.Library("aten", "IMPL", "SparseCsrMeta")
    library.impl("sparse_sampled_addmm", lambda pattern, *others, **factors: pattern)
    yield
    library._destroy()


@every_architecture
def test_its_losses_and_gradients_need_no_numbers(architecture: str, sparse_products_have_shapes: None) -> None:
    """On a device that has none: shapes alone, so that nothing can come to the host by any way."""
    sae = make_sae(architecture, shapes="static").to("meta")
    x_BD = torch.empty(32, D_IN, device="meta")
    sae.begin_step(20, 30, lambda: None)  # type: ignore[arg-type, return-value]
    sae.training_output(x_BD, x_BD).loss.backward()
    sae.project_decoder_gradient()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
    sae.project_parameters()
    assert all(parameter.grad is not None and parameter.grad.is_meta for parameter in sae.parameters())


@every_architecture
def test_shapes_of_either_kind_train_as_the_plain_version(architecture: str) -> None:
    """Masks, auxiliary loss, orthogonality and clipping included."""
    versions = {"plain": {"reference": True}, "static": {"shapes": "static"}, "dynamic": {"shapes": "dynamic"}}
    trainings = {name: make_training(architecture, **options) for name, options in versions.items()}
    ended = {name: weights_after(training) for name, training in trainings.items()}
    for name, tensor in ended["plain"].items():
        torch.testing.assert_close(ended["static"][name], tensor, msg=name)
        torch.testing.assert_close(ended["dynamic"][name], tensor, msg=name)
    if architecture in TOPK_FAMILY:
        assert all(torch.equal(ended["static"][name], tensor) for name, tensor in ended["dynamic"].items())
    output = trainings["dynamic"].output
    assert output is not None and output.dead > 0 and 0 < output.l0 < MOST * D_SAE
    assert output.auxiliary_loss > 0 or architecture not in TOPK_FAMILY


@pytest.mark.parametrize(
    ("shapes", "on_cpu", "elsewhere"), [("auto", False, True), ("static", True, True), ("dynamic", False, False)]
)
def test_shapes_are_static_where_nobody_chose_and_a_host_would_wait(shapes: str, on_cpu: bool, elsewhere: bool) -> None:
    sae = make_sae("topk", shapes=shapes)
    assert sae.has_static_shapes == on_cpu and sae.to("meta").has_static_shapes == elsewhere
