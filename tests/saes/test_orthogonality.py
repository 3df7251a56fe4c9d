"""The penalty on decoder rows that point the same way: against loops, and what it does."""

import numpy as np
import pytest
import torch
from torch import Tensor

from masked_sae.saes.orthogonality import closest, orthogonality_loss
from support.architectures import TOPK_FAMILY


def rows(latents: int = 23, d_in: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(latents, d_in, generator=generator, dtype=torch.float64), dim=1)


def order(latents: int = 23) -> Tensor:
    return torch.randperm(latents, generator=torch.Generator().manual_seed(1))


def loss_by_loops(W: np.ndarray, chunk: int, latents: list[int]) -> float:
    squares: list[float] = []
    for start in range(0, len(latents), chunk):
        among = latents[start : start + chunk]
        squares += [max([0.0, *(float(W[i] @ W[j]) for j in among if j != i)]) ** 2 for i in among]
    return sum(squares) / len(latents)


@pytest.mark.parametrize("chunk", [2, 5, 11, 22, 23, 100])  # at 11 and 22 the last chunk has one latent alone
def test_it_is_the_mean_square_of_each_latents_closest_in_its_chunk(chunk: int) -> None:
    W_dec_FD, order_F = rows(), order()
    found = orthogonality_loss(W_dec_FD, chunk, order_F).item()
    assert found == pytest.approx(loss_by_loops(W_dec_FD.numpy(), chunk, order_F.tolist()), rel=1e-12)
    unordered = loss_by_loops(W_dec_FD.numpy(), chunk, list(range(23)))
    assert orthogonality_loss(W_dec_FD, chunk).item() == pytest.approx(unordered, rel=1e-12)


@pytest.mark.parametrize("chunk", [2, 5, 22, 100])
def test_its_gradient_is_that_of_finite_differences(chunk: int) -> None:
    W_dec_FD = rows(12).requires_grad_()
    assert torch.autograd.gradcheck(lambda W: orthogonality_loss(W, chunk, order(12)), (W_dec_FD,))


def test_no_latent_is_its_own_closest_unless_it_is_alone() -> None:
    closest_F = closest(rows(), 11, order())
    own_F = closest_F == torch.arange(23)
    assert own_F.sum() == 1 and own_F[order()[22]]


def test_orthogonal_and_opposite_rows_cost_nothing_and_copies_cost_1() -> None:
    one_D, other_D = torch.eye(4, dtype=torch.float64)[:2]
    assert orthogonality_loss(torch.stack([one_D, other_D, -one_D, -other_D]), 4).item() == 0
    assert orthogonality_loss(torch.stack([one_D, one_D]), 4).item() == 1


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
@pytest.mark.parametrize("reference", [True, False])
def test_training_with_it_leaves_rows_that_are_further_apart(architecture: str, reference: bool) -> None:
    def after_training(weight: float) -> float:
        options = {"groups": [12, 36]} if architecture == "matryoshka" else {}
        sae = TOPK_FAMILY[architecture](
            16, 48, 4, orthogonality=weight, orthogonality_chunk=20, reference=reference,
            generator=torch.Generator().manual_seed(0), **options,
        )  # fmt: skip
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
        for step in range(60):
            x_BD = torch.randn(32, 16, generator=torch.Generator().manual_seed(step))
            sae.begin_step(step, 60, lambda step=step: torch.Generator().manual_seed(step))
            sae.training_output(x_BD, x_BD).loss.backward()
            sae.project_decoder_gradient()
            optimizer.step()
            optimizer.zero_grad()
            sae.project_parameters()
        return orthogonality_loss(sae.W_dec_FD, 48).item()

    without, little, much = map(after_training, (0.0, 0.3, 3.0))
    assert much < little < without and much < 0.8 * without


def test_chunks_are_drawn_anew_for_each_step_and_from_its_generator_alone() -> None:
    sae = TOPK_FAMILY["topk"](8, 40, 3, orthogonality=1.0, orthogonality_chunk=8)
    x_BD = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))

    def loss(seed: int) -> float:
        sae.begin_step(0, 10, lambda: torch.Generator().manual_seed(seed))
        return sae.training_output(x_BD, x_BD).loss.item()

    assert loss(1) == loss(1) != loss(2)
