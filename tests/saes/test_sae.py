"""What an SAE is: its mathematics against an independent version, and what training keeps true of it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from masked_sae.saes import (
    SAE,
    BatchTopKSAE,
    TopKFamilySAE,
    group_sizes,
)
from support.architectures import ARCHITECTURES, PENALIZED, TOPK_FAMILY

all_with_k = pytest.mark.parametrize("architecture", TOPK_FAMILY)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
both_versions = pytest.mark.parametrize("reference", [False, True])
every_version = pytest.mark.parametrize(
    ("architecture", "options"),
    [(name, {"reference": reference}) for name in TOPK_FAMILY for reference in (False, True)]
    + [(name, {}) for name in PENALIZED],
)


def make(architecture: str, d_in: int = 8, d_sae: int = 48, k: int = 4, seed: int = 0, **options: Any) -> SAE:
    options["generator"] = torch.Generator().manual_seed(seed)
    if architecture in PENALIZED:
        return PENALIZED[architecture](d_in, d_sae, 0.3, **options)
    if architecture == "matryoshka":
        options.setdefault("groups", group_sizes(d_sae, [0.1, 0.3, 0.6]))
    return TOPK_FAMILY[architecture](d_in, d_sae, k, **options)


def make_with_k(*args: Any, **options: Any) -> TopKFamilySAE:
    sae = make(*args, **options)
    assert isinstance(sae, TopKFamilySAE)
    return sae


def normal(*shape: int, seed: int = 1, **options: Any) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


def train(sae: SAE, batches: list[Tensor], lr: float = 1e-2) -> None:
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr, fused=True)
    for x_BD in batches:
        sae.training_output(x_BD, x_BD).loss.backward()
        sae.project_decoder_gradient()
        optimizer.step()
        sae.project_parameters()
        optimizer.zero_grad()


def double(architecture: str, reference: bool) -> TopKFamilySAE:
    """With all weights at random, some dead latents, in float64."""
    sae = make_with_k(
        architecture, aux_k=3, dead_after_tokens=100, aux_coefficient=0.5, compute_dtype=torch.float64,
        reference=reference,
    ).double()  # fmt: skip
    with torch.no_grad():
        for seed, parameter in enumerate(sae.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed, dtype=torch.float64))
    sae.silent_for_F[::3] = 1000
    return sae


def loss_by_loops(sae: TopKFamilySAE, x: np.ndarray, target: np.ndarray) -> float:
    """The training loss as the papers write it, one activation and latent at a time."""
    weights = {name: parameter.detach().numpy() for name, parameter in sae.named_parameters()}
    pre = (x - weights["b_dec_D"]) @ weights["W_enc_FD"].T + weights["b_enc_F"]
    batch, d_sae = pre.shape
    if isinstance(sae, BatchTopKSAE):
        best = sorted(((pre[b, f], b, f) for b in range(batch) for f in range(d_sae)), reverse=True)[: sae.k * batch]
    else:
        best = [
            entry
            for b in range(batch)
            for entry in sorted(((pre[b, f], b, f) for f in range(d_sae)), reverse=True)[: sae.k]
        ]
    latents = np.zeros_like(pre)
    for value, b, f in best:
        latents[b, f] = max(value, 0)
    losses, end = [], 0
    for size in sae.groups:
        end += size
        x_hat = latents[:, :end] @ weights["W_dec_FD"][:end] + weights["b_dec_D"]
        losses.append(np.mean((target - x_hat) ** 2))
    silent = np.where((latents > 0).any(0), 0, sae.silent_for_F.numpy() + batch)
    dead = [f for f in range(d_sae) if silent[f] > sae.dead_after_tokens]
    revived = np.zeros_like(pre)
    for b in range(batch):
        for f in sorted(dead, key=lambda f: -pre[b, f])[: sae.aux_k]:
            revived[b, f] = max(pre[b, f], 0)
    auxiliary = np.mean((target - x_hat - revived @ weights["W_dec_FD"]) ** 2)
    assert revived.any()
    weights_G = None if sae.group_weights_G is None else sae.group_weights_G.numpy()
    return float(np.average(losses, weights=weights_G) + sae.aux_coefficient * auxiliary)


@all_with_k
@both_versions
def test_the_loss_is_the_papers(architecture: str, reference: bool) -> None:
    sae = double(architecture, reference)
    x_BD, target_BD = normal(10, 8, dtype=torch.float64), normal(10, 8, seed=2, dtype=torch.float64)
    expected = loss_by_loops(sae, x_BD.numpy(), target_BD.numpy())
    assert sae.training_output(x_BD, target_BD).loss.item() == pytest.approx(expected, rel=1e-12)


@both_versions
def test_a_balanced_loss_is_the_weighted_mean_of_the_prefixes(reference: bool) -> None:
    x_BD, target_BD = normal(10, 8, dtype=torch.float64), normal(10, 8, seed=2, dtype=torch.float64)
    losses: list[float] = []
    for weights in (None, [2.0, 2.0, 2.0], [0.25, 0.5, 1.0], [0.0, 0.0, 1.0]):
        sae = double("matryoshka", reference)
        sae.group_weights_G = None if weights is None else torch.tensor(weights).double() / np.mean(weights)
        losses.append(sae.training_output(x_BD, target_BD).loss.item())
        assert losses[-1] == pytest.approx(loss_by_loops(sae, x_BD.numpy(), target_BD.numpy()), rel=1e-12)
    assert losses[1] == pytest.approx(losses[0]) and len({round(loss, 6) for loss in losses}) == 3
    built = make_with_k("matryoshka", group_weights=[1, 1, 2]).group_weights_G
    assert built is not None and built.tolist() == [0.75, 0.75, 1.5]


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
def test_wrong_group_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 3 of at least 0"):
        make_with_k("matryoshka", group_weights=weights)


class _Loss(nn.Module):
    """The loss of a batch as a function of the SAE's parameters. The residual that the auxiliary loss explains is a
    constant to it: as in the gradient, not as in finite differences, so these see no auxiliary loss."""

    def __init__(self, sae: SAE) -> None:
        super().__init__()
        self.sae = sae

    def forward(self, x_BD: Tensor, target_BD: Tensor) -> Tensor:
        return self.sae.training_output(x_BD, target_BD).loss


@pytest.mark.slow
@all_with_k
@both_versions
def test_the_gradient_is_that_of_finite_differences(architecture: str, reference: bool) -> None:
    sae = double(architecture, reference).eval()
    sae.aux_k = 0
    target_BD = normal(6, 8, seed=2, dtype=torch.float64)
    names = [name for name, _ in sae.named_parameters()]

    def loss(x_BD: Tensor, *parameters: Tensor) -> Tensor:
        named = {f"sae.{name}": parameter for name, parameter in zip(names, parameters, strict=True)}
        return torch.func.functional_call(_Loss(sae), named, (x_BD, target_BD))

    x_BD = normal(6, 8, dtype=torch.float64).requires_grad_()
    parameters = [parameter.detach().clone().requires_grad_() for parameter in sae.parameters()]
    assert torch.autograd.gradcheck(loss, (x_BD, *parameters), eps=1e-7, atol=1e-6)


@all_with_k
@both_versions
def test_the_auxiliary_gradient_teaches_dead_latents_alone(architecture: str, reference: bool) -> None:
    x_BD = normal(10, 8, dtype=torch.float64)
    gradients: list[Tensor] = []
    for aux_k in (0, 3):
        sae = double(architecture, reference)
        sae.aux_k = aux_k
        sae.training_output(x_BD, x_BD).loss.backward()
        assert sae.W_enc_FD.grad is not None
        gradients.append(sae.W_enc_FD.grad)
    changed_F = ~torch.isclose(*gradients, rtol=0, atol=1e-12).all(1)
    dead_F = sae.silent_for_F > sae.dead_after_tokens
    assert changed_F.any() and not (changed_F & ~dead_F).any()


@every_architecture
def test_the_encoder_starts_as_the_decoder_transposed_with_unit_rows(architecture: str) -> None:
    sae = make(architecture)
    assert torch.equal(sae.W_enc_DF, sae.W_dec_FD.T)
    assert sae.W_enc_FD.data_ptr() != sae.W_dec_FD.data_ptr()
    torch.testing.assert_close(sae.W_dec_FD.norm(dim=1), torch.ones(48))
    assert not sae.b_enc_F.any() and not sae.b_dec_D.any()


@every_version
def test_decoder_rows_keep_unit_norm_and_lose_no_gradient_along_themselves(
    architecture: str, options: dict[str, Any]
) -> None:
    sae = make(architecture, **options)
    train(sae, [normal(64, 8, seed=seed) for seed in range(20)])
    torch.testing.assert_close(sae.W_dec_FD.norm(dim=1), torch.ones(48))
    x_BD = normal(64, 8, seed=30)
    sae.training_output(x_BD, x_BD).loss.backward()
    sae.project_decoder_gradient()
    assert sae.W_dec_FD.grad is not None and sae.W_dec_FD.grad.norm() > 1e-3
    assert (sae.W_dec_FD.grad * sae.W_dec_FD).sum(1).abs().max() < 1e-6


@every_architecture
def test_training_lowers_the_loss(architecture: str) -> None:
    sae = make(architecture)
    codes = normal(64, 8, 48).relu() * (torch.rand(64, 8, 48, generator=torch.Generator().manual_seed(2)) < 0.05)
    batches = list(codes @ normal(48, 8, seed=3))
    before = sae.training_output(batches[0], batches[0]).loss.item()
    train(sae, batches * 5)
    assert sae.training_output(batches[0], batches[0]).loss.item() < 0.5 * before


@every_architecture
def test_an_encoding_does_not_depend_on_the_rest_of_the_batch(architecture: str) -> None:
    sae = make(architecture)
    train(sae, [normal(64, 8, seed=seed) for seed in range(5)])
    sae.eval()
    x_BD = normal(32, 8, seed=9)
    together_BF = sae.encode(x_BD)
    alone_BF = torch.cat([sae.encode(row_D[None]) for row_D in x_BD])
    torch.testing.assert_close(alone_BF, together_BF)
    assert ((alone_BF > 0) == (together_BF > 0)).all() and (together_BF > 0).any()
    torch.testing.assert_close(sae(x_BD), together_BF @ sae.W_dec_FD + sae.b_dec_D)


def test_topk_encodes_with_the_k_largest_positive_latents() -> None:
    sae = make_with_k("topk")
    with torch.no_grad():
        sae.b_enc_F.copy_(normal(48) - 1)
    f_BF, pre_BF = sae.encode(normal(32, 8)), sae.pre_activations(normal(32, 8))
    for f_F, pre_F in zip(f_BF, pre_BF, strict=True):
        expected = sorted((value for value in pre_F.tolist() if value > 0), reverse=True)[: sae.k]
        assert sorted(f_F[f_F > 0].tolist(), reverse=True) == expected
    f_BF.sum().backward()
    assert sae.W_enc_FD.grad is not None and sae.W_enc_FD.grad.any()


@both_versions
@pytest.mark.parametrize("architecture", ["batch_topk", "matryoshka"])
def test_the_threshold_is_the_mean_of_the_smallest_active_latents(architecture: str, reference: bool) -> None:
    """With weights that stand still, encoding with the threshold gives the L0 that training had."""
    sae = make(architecture, 16, 256, 8, threshold_decay=0.9, reference=reference)
    weights, smallest = [], []
    for seed in range(60):
        x_BD = normal(512, 16, seed=seed)
        with torch.no_grad():
            f_BF = sae.pre_activations(x_BD).relu().flatten().topk(8 * 512).values
        smallest.append(f_BF.min().item())
        weights.append(0.9 ** (59 - seed))
        sae.training_output(x_BD, x_BD)
    assert isinstance(sae, BatchTopKSAE)
    assert sae.threshold.item() == pytest.approx(np.average(smallest, weights=weights), rel=1e-4)
    l0 = (sae.encode(normal(4096, 16, seed=99)) > 0).sum(1).float().mean().item()
    assert l0 == pytest.approx(8, rel=0.05)


@both_versions
def test_the_threshold_learns_in_training_alone_and_from_active_latents_alone(reference: bool) -> None:
    sae = make("batch_topk", reference=reference)
    assert isinstance(sae, BatchTopKSAE)
    sae.training_output(torch.zeros(4, 8), torch.zeros(4, 8))
    assert sae.threshold == 0 and sae.threshold_weight == 0
    sae.eval().training_output(normal(4, 8), normal(4, 8))
    assert sae.threshold_weight == 0
    sae.train().training_output(normal(4, 8), normal(4, 8))
    assert sae.threshold > 0


@every_version
def test_a_latent_is_dead_after_that_many_silent_activations(architecture: str, options: dict[str, Any]) -> None:
    sae = make(architecture, dead_after_tokens=100, **options)
    with torch.no_grad():
        sae.b_enc_F[:7] = -100.0
    dead = [sae.training_output(x_BD, x_BD).dead.item() for x_BD in [normal(50, 8, seed=seed) for seed in range(3)]]
    assert dead[:2] == [0, 0] and dead[2] >= 7
    assert (sae.silent_for_F[:7] == 150).all()
    with torch.no_grad():
        sae.b_enc_F[0] = 100.0
    sae.training_output(normal(50, 8), normal(50, 8))
    assert sae.silent_for_F[0] == 0 and sae.silent_for_F[1] == 200


def sums_of_features(seed: int) -> Tensor:
    """Activations (128, 16) that are sparse sums of 48 directions: there is a feature for every latent."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(128, 48, generator=generator) < 0.06
    strengths = 1 + torch.rand(128, 48, generator=generator)
    return (present * strengths) @ nn.functional.normalize(normal(48, 16, seed=3), dim=1)


@all_with_k
@both_versions
def test_the_auxiliary_loss_revives_dead_latents(architecture: str, reference: bool) -> None:
    dead: dict[int, float] = {}
    for aux_k in (0, 16):
        sae = make(architecture, 16, k=3, aux_k=aux_k, aux_coefficient=0.2, dead_after_tokens=1000, reference=reference)
        with torch.no_grad():
            sae.W_enc_FD[24:] *= 0.1  # too weak to be among the largest
        train(sae, [sums_of_features(seed) for seed in range(100)], lr=3e-3)
        dead[aux_k] = sae.training_output(sums_of_features(999), sums_of_features(999)).dead.item()
    assert dead[0] >= 20 and dead[16] <= 10


@all_with_k
def test_no_auxiliary_loss_without_dead_latents(architecture: str) -> None:
    output = make(architecture, aux_k=4).training_output(normal(16, 8), normal(16, 8))
    assert output.auxiliary_loss == 0 and output.dead == 0
    assert torch.equal(output.loss.detach(), output.reconstruction_loss)


@every_architecture
def test_the_same_seed_gives_the_same_bits(architecture: str) -> None:
    trained: list[SAE] = []
    for _ in range(2):
        sae = make(architecture, dead_after_tokens=100, **({} if architecture in PENALIZED else {"aux_k": 4}))
        train(sae, [normal(64, 8, seed=seed) for seed in range(10)])
        trained.append(sae)
    for one, other in zip(trained[0].state_dict().values(), trained[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(make(architecture, seed=1).W_dec_FD, make(architecture, seed=0).W_dec_FD)


@every_architecture
def test_training_goes_on_from_a_saved_state_to_the_same_bits(architecture: str) -> None:
    batches = [normal(64, 8, seed=seed) for seed in range(6)]
    kept = make(architecture)
    optimizer = torch.optim.Adam(kept.parameters(), fused=True)
    resumed = make(architecture, seed=5)
    resumed_optimizer = torch.optim.Adam(resumed.parameters(), fused=True)

    def steps(sae: SAE, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> None:
        for x_BD in batches:
            optimizer.zero_grad()
            sae.training_output(x_BD, x_BD).loss.backward()
            optimizer.step()

    def copied(state: Any) -> Any:
        if isinstance(state, Tensor):
            return state.clone().contiguous()
        return {key: copied(value) for key, value in state.items()} if isinstance(state, dict) else state

    steps(kept, optimizer, batches[:3])
    resumed.load_state_dict(copied(kept.state_dict()))
    resumed_optimizer.load_state_dict(copied(optimizer.state_dict()))
    steps(kept, optimizer, batches[3:])
    steps(resumed, resumed_optimizer, batches[3:])
    for one, other in zip(kept.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@all_with_k
def test_a_bfloat16_product_is_near_the_float32_one(architecture: str) -> None:
    single = make_with_k(architecture, 64, 512, 8)
    half = make_with_k(architecture, 64, 512, 8, compute_dtype=torch.bfloat16)
    x_BD = normal(256, 64)
    pre_BF, half_pre_BF = single.pre_activations(x_BD), half.pre_activations(x_BD)
    assert half_pre_BF.dtype == torch.float32
    assert (half_pre_BF - pre_BF).norm() / pre_BF.norm() < 0.01
    common = ((single.select(pre_BF) > 0) & (half.select(half_pre_BF) > 0)).sum() / (8 * 256)
    assert common > 0.97
    outputs = [sae.training_output(x_BD, x_BD) for sae in (single, half)]
    assert outputs[1].loss.item() == pytest.approx(outputs[0].loss.item(), rel=0.01)


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.tuples(st.integers(n, 5000), st.lists(st.floats(0.001, 1), min_size=n, max_size=n))
    )
)
def test_group_sizes_sum_to_d_sae_and_follow_the_fractions(case: tuple[int, list[float]]) -> None:
    d_sae, parts = case
    fractions = [part / sum(parts) for part in parts]
    sizes = group_sizes(d_sae, fractions)
    assert sum(sizes) == d_sae and len(sizes) == len(fractions) and min(sizes) >= 1
    if d_sae * min(fractions) > 1.5:
        assert all(abs(size - d_sae * fraction) <= 1 for size, fraction in zip(sizes, fractions, strict=True))


def test_group_sizes_of_the_paper() -> None:
    assert group_sizes(16384, [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32]) == [512, 1024, 2048, 4096, 8704]


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="groups"):
        make("matryoshka", groups=[3, 4])
    with pytest.raises(ValueError, match="k=49"):
        make("topk", k=49)
