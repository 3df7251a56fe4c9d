"""The sparse training step against the plain one, and against a sort, over random shapes and hard cases."""

import itertools
import weakref
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from masked_sae.saes import SAE, TrainingOutput, group_sizes
from masked_sae.saes.fast_topk import largest
from masked_sae.saes.topk_family import keep_largest
from support.architectures import TOPK_FAMILY


@dataclass
class Case:
    """A pair of SAEs that differ only in `reference`, and a batch."""

    plain: SAE
    sparse: SAE
    x_BD: Tensor
    target_BD: Tensor
    hidden_BF: Tensor | None

    def run(self, sae: SAE) -> tuple[TrainingOutput, dict[str, Tensor]]:
        x_BD = self.x_BD.detach().requires_grad_()
        hide = None if self.hidden_BF is None else lambda pre_BF: pre_BF.masked_fill(self.hidden_BF, -torch.inf)
        output = sae.training_output(x_BD, self.target_BD, hide)
        output.loss.backward()
        gradients = {name: parameter.grad for name, parameter in sae.named_parameters()} | {"x": x_BD.grad}
        return output, {name: torch.zeros(()) if gradient is None else gradient for name, gradient in gradients.items()}


@st.composite
def cases(draw: st.DrawFn, shapes: str) -> Case:
    batch, d_in = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    d_sae = draw(st.integers(1, 12) | st.sampled_from([32, 64, 96, 160, 257]))
    k = draw(st.just(1) | st.just(d_sae) | st.integers(1, d_sae))
    architecture = draw(st.sampled_from(sorted(TOPK_FAMILY)))
    options: dict[str, Any] = {"aux_k": draw(st.sampled_from([0, 1, 3, d_sae + 1])), "dead_after_tokens": 15}
    options["shapes"] = shapes
    if architecture == "matryoshka":
        ends = draw(st.sets(st.integers(1, d_sae - 1), max_size=5)) if d_sae > 1 else set()
        bounds = [0, *sorted(ends), d_sae]
        options["groups"] = [after - before for before, after in itertools.pairwise(bounds)]
        if draw(st.booleans()):
            options["group_weights"] = [draw(st.sampled_from([0.0, 0.3, 1.0])) for _ in bounds[2:]] + [1.0]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tied = ["ties", "constant"] if shapes == "dynamic" else []  # of equal ones static shapes leave the choice to torch
    kind = draw(st.sampled_from(["normal", "zero", *tied]))

    def numbers(*shape: int) -> Tensor:
        if kind == "ties":  # small whole numbers: their products are exact, and often equal
            return torch.randint(-1, 2, shape, generator=generator).float()
        return torch.randn(shape, generator=generator)

    saes = [TOPK_FAMILY[architecture](d_in, d_sae, k, reference=reference, **options) for reference in (True, False)]
    values = {name: numbers(*parameter.shape) for name, parameter in saes[0].named_parameters()}
    if kind in ("zero", "constant"):
        values |= {"b_dec_D": torch.zeros(d_in), "b_enc_F": torch.full((d_sae,), float(kind == "constant"))}
    silent_for_F = torch.randint(0, 30, (d_sae,), generator=generator)
    for sae in saes:
        sae.load_state_dict(sae.state_dict() | values | {"silent_for_F": silent_for_F})
    layout = draw(st.sampled_from(["contiguous", "transposed", "strided"]))
    x_BD = numbers(batch, d_in)
    if layout == "transposed":
        x_BD = numbers(d_in, batch).T
    elif layout == "strided":
        x_BD = numbers(2 * batch, d_in + 1)[::2, 1:]
    if kind in ("zero", "constant"):
        x_BD = torch.zeros_like(x_BD)
    target_BD = x_BD if draw(st.booleans()) else x_BD + numbers(batch, d_in)
    hidden_BF = torch.rand(batch, d_sae, generator=generator) < draw(st.sampled_from([0.3, 1.0]))
    return Case(saes[0], saes[1], x_BD, target_BD, hidden_BF if draw(st.booleans()) else None)


def assert_near(sparse: Tensor, plain: Tensor, what: str) -> None:
    scale = max(1.0, float(plain.detach().abs().max())) if plain.numel() else 1.0
    torch.testing.assert_close(sparse, plain, rtol=1e-4, atol=1e-5 * scale, msg=lambda text: f"{what}: {text}")


@settings(max_examples=300, deadline=None)
@given(cases("dynamic"))
def test_the_sparse_step_is_the_plain_step(case: Case) -> None:
    assert_same_step(case)


@settings(max_examples=150, deadline=None)
@given(cases("static"))
def test_with_static_shapes_too(case: Case) -> None:
    assert_same_step(case)


def assert_same_step(case: Case) -> None:
    for _ in range(2):  # the second sees the counts and the threshold that the first left behind
        case.plain.zero_grad(), case.sparse.zero_grad()
        expected, expected_gradients = case.run(case.plain)
        found, found_gradients = case.run(case.sparse)
        for field in fields(TrainingOutput):
            assert_near(getattr(found, field.name), getattr(expected, field.name), field.name)
        for name, gradient in expected_gradients.items():
            assert_near(found_gradients[name], gradient, f"gradient of {name}")
        for name, value in case.plain.state_dict().items():
            assert torch.equal(case.sparse.state_dict()[name], value), name
        for sae in (case.plain, case.sparse):
            sae.project_decoder_gradient()
        assert case.plain.W_dec_FD.grad is not None and case.sparse.W_dec_FD.grad is not None
        assert_near(case.sparse.W_dec_FD.grad, case.plain.W_dec_FD.grad, "projected gradient")


@st.composite
def rows_and_k(draw: st.DrawFn) -> tuple[Tensor, int]:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 8) | st.sampled_from([32, 64, 96, 257, 512]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    levels = draw(st.sampled_from([1, 2, 5, 1 << 30]))  # few levels: many ties
    pre_RN = torch.randint(0, levels, (rows, columns), generator=generator).double()
    pre_RN = (pre_RN - draw(st.sampled_from([0, levels // 2, levels]))).float()
    if draw(st.booleans()):
        pre_RN[torch.rand(pre_RN.shape, generator=generator) < 0.5] = -torch.inf
    if draw(st.booleans()):
        pre_RN = torch.stack([pre_RN, pre_RN], 2)[:, :, 0]  # not contiguous
    return pre_RN, draw(st.just(1) | st.just(columns) | st.integers(1, columns))


@settings(max_examples=300, deadline=None)
@given(rows_and_k())
def test_selection_is_that_of_a_stable_sort(rows_and_k: tuple[Tensor, int]) -> None:
    pre_RN, k = rows_and_k
    order_RN = pre_RN.argsort(dim=1, descending=True, stable=True)
    ranks_RN = order_RN.argsort(dim=1)
    expected_RN = torch.where((ranks_RN < k) & (pre_RN > 0), pre_RN, 0.0)
    places_A, values_A = largest(pre_RN, k, static=False)
    assert torch.equal(keep_largest(pre_RN, k), expected_RN)
    assert torch.equal(places_A, expected_RN.flatten().nonzero().squeeze(1))
    assert torch.equal(values_A, expected_RN.flatten()[places_A])
    places_A, values_A = largest(pre_RN, k, static=True)
    places_RK, values_RK = places_A.view(-1, k), values_A.view(-1, k)
    rows_RK = torch.arange(len(pre_RN))[:, None].expand_as(places_RK)
    assert (places_RK.diff(dim=1) > 0).all() and torch.equal(places_RK // pre_RN.shape[1], rows_RK)
    assert torch.equal(values_A, pre_RN.flatten()[places_A].clamp_min(0))
    expected_RK = expected_RN.sort(dim=1, descending=True).values[:, :k]
    assert torch.equal(values_RK.sort(dim=1, descending=True).values, expected_RK)


def make(architecture: str, d_in: int = 16, d_sae: int = 512, k: int = 6, **options: Any) -> SAE:
    if architecture == "matryoshka":
        options["groups"] = group_sizes(d_sae, [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32])
    generator = torch.Generator().manual_seed(0)
    return TOPK_FAMILY[architecture](d_in, d_sae, k, generator=generator, **options)


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
def test_the_same_bits_every_time(architecture: str) -> None:
    torch.set_num_threads(2)
    x_BD = torch.randn(1024, 64, generator=torch.Generator().manual_seed(1))
    seen: list[list[Tensor]] = []
    for _ in range(5):
        sae = make(architecture, 64, 1024, 20, aux_k=8, dead_after_tokens=0)
        with torch.no_grad():
            sae.b_enc_F[::4] = -3.0
        for _ in range(3):
            sae.zero_grad()
            output = sae.training_output(x_BD, x_BD)
            output.loss.backward()
        assert output.auxiliary_loss > 0
        seen.append([output.loss, *[p.grad for p in sae.parameters() if p.grad is not None]])
    assert all(torch.equal(first, other) for run in seen[1:] for first, other in zip(seen[0], run, strict=True))


class LargeTensors(TorchDispatchMode):
    """Notes every storage of at least `numel` floats that an operation makes."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.bytes, self.made, self.alive = 4 * numel, dict[int, str](), list[weakref.ref[Tensor]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            strided = isinstance(tensor, Tensor) and tensor.layout == torch.strided
            if strided and tensor.untyped_storage().nbytes() >= self.bytes:
                self.made.setdefault(tensor.untyped_storage().data_ptr(), str(func))
                self.alive.append(weakref.ref(tensor))
        return result


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
@pytest.mark.parametrize("dead", [False, True])
def test_pre_activations_are_the_only_large_tensor_and_are_not_kept(architecture: str, dead: bool) -> None:
    x_BD = torch.randn(256, 16, generator=torch.Generator().manual_seed(1))
    sae = make(architecture, aux_k=8, dead_after_tokens=0 if dead else 10**9)
    with LargeTensors(256 * 512) as large:
        output = sae.training_output(x_BD, x_BD)
        assert not [tensor for tensor in large.alive if tensor() is not None]
        output.loss.backward()
    assert list(large.made.values()) == ["aten.addmm.default"]


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
def test_a_loss_that_is_scaled_scales_every_gradient(architecture: str) -> None:
    x_BD = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    gradients: list[list[Tensor]] = []
    for factor in (1.0, -4.0):
        sae = make(architecture, aux_k=8, dead_after_tokens=0)
        (factor * sae.training_output(x_BD, x_BD).loss).backward()
        gradients.append([p.grad / factor for p in sae.parameters() if p.grad is not None])
    assert len(gradients[0]) == 4
    for one, scaled in zip(*gradients, strict=True):
        assert torch.equal(one, scaled)


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
def test_a_bfloat16_product_selects_and_reconstructs_as_the_plain_version_does(architecture: str) -> None:
    x_BD = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    outputs: list[TrainingOutput] = []
    gradients: list[dict[str, Tensor]] = []
    for reference in (True, False):
        sae = make(architecture, compute_dtype=torch.bfloat16, reference=reference)
        outputs.append(sae.training_output(x_BD, x_BD))
        outputs[-1].loss.backward()
        gradients.append({name: p.grad for name, p in sae.named_parameters() if p.grad is not None})
    for field in fields(TrainingOutput):
        assert_near(getattr(outputs[1], field.name), getattr(outputs[0], field.name), field.name)
    for name, plain in gradients[0].items():  # the plain version's backward products are bfloat16 too; ours are not
        error = (gradients[1][name] - plain).norm() / plain.norm()
        assert error < 0.02, (name, error)


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
@pytest.mark.parametrize("reference", [False, True])
def test_a_nan_in_the_batch_reaches_the_loss(architecture: str, reference: bool) -> None:
    x_BD = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    x_BD[3, 5] = torch.nan
    assert make(architecture, reference=reference).training_output(x_BD, x_BD).loss.isnan()
