"""What a step computes, against what torch counts while steps are taken.

Axes: B activations, D `d_in`, F `d_sae`, A active latents of the whole batch, S sums of decoder rows.
"""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from masked_sae.activations.scale import ActivationStatistics
from masked_sae.activations.stream import Batch
from masked_sae.masks.run_masks import Masks
from masked_sae.planning.step import step_flops
from masked_sae.saes.penalty_family import PenalizedSAE
from masked_sae.saes.settings import PACKAGE
from masked_sae.settings import names
from masked_sae.training.assemble import begin_training
from masked_sae.training.sae_training import SAETraining
from support.making import compose

ARCHITECTURES = names(PACKAGE, "Settings")
B, D, F, K = 256, 48, 512, 8
SMALL = [f"data.batch_size={B}", f"sae.d_sae={F}"]
WITH_K = [*SMALL, f"sae.k={K}", "sae.aux_k=0"]


def overrides_of(architecture: str, *more: str) -> list[str]:
    has_k = architecture in ("topk", "batch_topk", "matryoshka")
    return [f"sae={architecture}", *(WITH_K if has_k else SMALL), *more]


def begin(overrides: list[str]) -> SAETraining:
    config = compose(overrides)
    statistics = ActivationStatistics(1.0, torch.zeros(D))
    device = torch.device("cpu")
    return begin_training(config.sae, config.optim, statistics, Masks({}), steps=10, seed=0, device=device)


def a_batch() -> Batch:
    x_BD = torch.randn(B, D, generator=torch.Generator().manual_seed(1))
    return Batch(x_BD, x_BD, 0.0)


def make_sparse(sae: PenalizedSAE) -> None:
    """Has it find few latents above their bound, as after training."""
    with torch.no_grad():
        sae.b_enc_F.fill_(-2.5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("reference", [False, True])
def test_dense_products_are_those_of_a_step(architecture: str, reference: bool) -> None:
    overrides = overrides_of(architecture, f"sae.reference={reference}")
    training = begin(overrides)
    if isinstance(training.sae, PenalizedSAE):
        make_sparse(training.sae)
    with FlopCounterMode(display=False) as counter:
        training.learn(a_batch())
    told = step_flops(compose(overrides), D, on_cuda=False)
    assert told is not None
    assert told.dense == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_products_of_the_orthogonality_penalty_are_in_it() -> None:
    overrides = overrides_of("batch_topk", "sae.orthogonality=0.1", "sae.orthogonality_chunk=128")
    with FlopCounterMode(display=False) as counter:
        begin(overrides).learn(a_batch())
    told = step_flops(compose(overrides), D, on_cuda=False)
    assert told is not None and told.dense == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(("experiment", "d_in"), [("paper_pythia_160m", 768), ("paper_gemma_2_2b", 2304)])
def test_the_papers_step_is_one_product_of_the_encoder(experiment: str, d_in: int) -> None:
    config = compose([f"experiment={experiment}"])
    with torch.device("meta"):
        sae = config.sae.make(d_in, None)  # type: ignore[arg-type]
        x_BD = torch.empty(config.data.batch_size, d_in)
    with FlopCounterMode(display=False) as counter:
        sae.pre_activations(x_BD)
    told = step_flops(config, d_in, on_cuda=False)
    assert told is not None and told.dense == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert told == step_flops(config, d_in, on_cuda=True)
    assert told.sparse is not None and 0 < told.sparse < told.dense


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_sparse_part_is_the_formulas_multiply_adds(architecture: str) -> None:
    training = begin(overrides_of(architecture))
    if isinstance(training.sae, PenalizedSAE):
        make_sparse(training.sae)
    support = list[int]()
    with FlopCounterMode(display=False, custom_mapping=sparse_operations(support)):
        training.learn(a_batch())
    cost = compose(overrides_of(architecture)).sae.step_cost(on_cuda=False)
    assert cost is not None
    counted = sum(support)
    active = max(support) // (2 * D)
    assert counted == cost.sums * 2 * active * D
    if cost.active is not None:
        assert active == pytest.approx(cost.active * B, rel=0.01)


def sparse_operations(taken: list[int]) -> dict[Any, Any]:
    """What torch does not count: notes each one's operations."""

    def of_bag(rows: torch.Tensor, indices_A: torch.Tensor, *_: Any, **__: Any) -> int:
        taken.append(2 * len(indices_A) * rows.shape[1])
        return 0

    def of_sampled(pattern_SF: torch.Tensor, grad_SD: torch.Tensor, *_: Any, **__: Any) -> int:
        taken.append(2 * pattern_SF._nnz() * grad_SD.shape[1])
        return 0

    for formula in (of_bag, of_sampled):
        formula._get_raw = True  # type: ignore[attr-defined]  # given tensors, not their shapes
    aten = torch.ops.aten
    return {
        aten._embedding_bag: of_bag,
        aten._embedding_bag_forward_only: of_bag,
        aten.sparse_sampled_addmm: of_sampled,
    }


def test_cuda_pays_for_dense_products_where_the_price_decides() -> None:
    config = compose(overrides_of("relu"))
    here, there = (step_flops(config, D, on_cuda) for on_cuda in (False, True))
    assert here is not None and there is not None
    assert (here.sparse, there.sparse) == (None, 0)
    assert there.dense == 5 * here.dense


def test_an_architecture_of_ones_own_need_not_say() -> None:
    config = compose(overrides_of("topk"))
    own = type("Own", (type(config.sae),), {"step_cost": lambda self, on_cuda: None})
    config.sae.__class__ = own
    assert step_flops(config, D, on_cuda=False) is None
