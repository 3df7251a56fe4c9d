"""ReLU, JumpReLU and Gated SAEs: their losses against SAELens' and against loops, and what the penalty does."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from masked_sae.saes import GatedSAE, JumpReLUSAE, PAnnealedSAE, PenalizedSAE, ReLUSAE
from masked_sae.saes.latent_support import SparseSupport
from masked_sae.saes.penalty_family import MOST
from masked_sae.saes.relu import SMALL
from support.architectures import PENALIZED

every_architecture = pytest.mark.parametrize("architecture", PENALIZED)
COEFFICIENT = 0.7


def normal(*shape: int, seed: int = 1, **options: Any) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


def double(architecture: str, d_in: int = 8, d_sae: int = 48) -> PenalizedSAE:
    """With all weights at random, decoder rows of unit norm and thresholds above 0, in float64."""
    options = {"bandwidth": 0.8} if architecture == "jumprelu" else {}
    sae = PENALIZED[architecture](d_in, d_sae, COEFFICIENT, compute_dtype=torch.float64, **options).double()
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(sae.named_parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed, dtype=torch.float64))
            if name == "threshold_F":
                parameter.abs_()
    sae.project_parameters()
    return sae


def loss_by_loops(sae: PenalizedSAE, x: np.ndarray, target: np.ndarray) -> float:
    """The training loss as the papers write it, one activation and latent at a time, divided by `d_in`."""
    weights = {name: parameter.detach().numpy() for name, parameter in sae.named_parameters()}
    losses: list[float] = []
    for x_D, target_D in zip(x, target, strict=True):
        x_hat, by_gate, penalty = weights["b_dec_D"].copy(), weights["b_dec_D"].copy(), 0.0
        for latent in range(sae.d_sae):
            projected = float((x_D - weights["b_dec_D"]) @ weights["W_enc_FD"][latent])
            pre = projected + weights["b_enc_F"][latent]
            value = max(pre, 0.0)
            if isinstance(sae, ReLUSAE):
                penalty += value
            elif isinstance(sae, JumpReLUSAE):
                value = pre if pre > weights["threshold_F"][latent] else 0.0
                penalty += value > 0
            else:
                penalty += max(pre, 0.0)
                by_gate += max(pre, 0.0) * weights["W_dec_FD"][latent]
                magnitude = np.exp(weights["r_mag_F"][latent]) * projected + weights["b_mag_F"][latent]
                value = max(magnitude, 0.0) if pre > 0 else 0.0
            x_hat += value * weights["W_dec_FD"][latent]
        loss = np.sum((target_D - x_hat) ** 2) + COEFFICIENT * penalty
        losses.append(loss + (np.sum((target_D - by_gate) ** 2) if isinstance(sae, GatedSAE) else 0.0))
    return float(np.mean(losses)) / sae.d_in


@every_architecture
def test_the_loss_is_the_papers(architecture: str) -> None:
    sae = double(architecture)
    x_BD, target_BD = normal(10, 8, dtype=torch.float64), normal(10, 8, seed=2, dtype=torch.float64)
    output = sae.training_output(x_BD, target_BD)
    assert output.loss.item() == pytest.approx(loss_by_loops(sae, x_BD.numpy(), target_BD.numpy()), rel=1e-12)
    assert 0 < output.l0 < sae.d_sae


NAMES = {
    "W_enc": "W_enc_DF",
    "W_dec": "W_dec_FD",
    "b_dec": "b_dec_D",
    "b_enc": "b_enc_F",
    "b_gate": "b_enc_F",
    "r_mag": "r_mag_F",
    "b_mag": "b_mag_F",
    "threshold": "threshold_F",
}


def theirs(sae_lens: Any, sae: PenalizedSAE, architecture: str) -> Any:
    """SAELens' training SAE with the same weights."""
    name, weight = {
        "relu": ("standard", "l1"),
        "p_anneal": ("standard", "l1"),  # which it is at its start
        "jumprelu": ("jumprelu", "l0"),
        "gated": ("gated", "l1"),
    }[architecture]
    options: dict[str, Any] = {f"{weight}_coefficient": COEFFICIENT, "apply_b_dec_to_input": True}
    if isinstance(sae, JumpReLUSAE):
        options["jumprelu_bandwidth"] = sae.bandwidth
    training_class, config_class = sae_lens.registry.get_sae_training_class(name)
    other = training_class(config_class(d_in=8, d_sae=48, device="cpu", dtype="float64", **options)).double()
    if isinstance(sae, JumpReLUSAE):
        other.threshold.data = other.threshold.data.double()
    with torch.no_grad():
        for their_name, parameter in other.named_parameters():
            parameter.copy_(getattr(sae, NAMES[their_name]))
    return other


@every_architecture
def test_loss_and_gradients_are_those_of_saelens(architecture: str, sae_lens: Any) -> None:
    from sae_lens.saes.sae import TrainStepInput

    sae, x_BD = double(architecture), normal(64, 8, dtype=torch.float64)
    other = theirs(sae_lens, sae, architecture)
    weight = {"l1": COEFFICIENT, "l0": COEFFICIENT}
    step = TrainStepInput(
        sae_in=x_BD, coefficients=weight, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )
    loss = sae.training_output(x_BD, x_BD).loss
    their_loss = other.training_forward_pass(step).loss / sae.d_in
    torch.testing.assert_close(loss, their_loss)
    loss.backward()
    their_loss.backward()
    for name, parameter in other.named_parameters():
        if isinstance(sae, GatedSAE) and name in ("W_dec", "b_dec"):
            continue  # there the decoder learns from the auxiliary loss too; the paper keeps it from that
        ours = sae.W_enc_FD.grad.T if name == "W_enc" else getattr(sae, NAMES[name]).grad
        expected = parameter.grad
        if name == "W_dec":  # along a row theirs has the penalty on its norm, which is fixed here
            ours, expected = (across(gradient_FD, sae.W_dec_FD) for gradient_FD in (ours, expected))
        torch.testing.assert_close(ours, expected)


def across(gradient_FD: Tensor, rows_FD: Tensor) -> Tensor:
    """Without the part along the rows, which are of unit norm."""
    return gradient_FD - (gradient_FD * rows_FD).sum(1, keepdim=True) * rows_FD


STEPS = 12


def annealed(step: int, p_end: float = 0.2) -> PAnnealedSAE:
    """As it is in this step, after those before it."""
    sae, x_BD = double("p_anneal"), normal(64, 8, dtype=torch.float64)
    assert isinstance(sae, PAnnealedSAE)
    sae.p_end, sae.anneal_after = p_end, 3
    for before in range(step):
        sae.begin_step(before, STEPS, torch.Generator)
        sae.training_output(x_BD, x_BD)
    sae.begin_step(step, STEPS, torch.Generator)
    return sae


@pytest.mark.parametrize("step", [0, 3, 4, 9, STEPS - 1])
def test_the_annealed_penalty_goes_from_the_l1_norm_to_p_end_and_stays_as_strong(step: int) -> None:
    """With weights and a batch that stand still its sum stays what it was; only its slopes change."""
    sae, x_BD = annealed(step), normal(64, 8, dtype=torch.float64)
    f_BF = sae.encode(x_BD).detach()
    p = 1 - 0.8 * max(0, step - 3) / (STEPS - 1 - 3)
    assert sae.p == pytest.approx(p)
    output = sae.training_output(x_BD, x_BD)
    torch.testing.assert_close(output.sparsity_loss.double(), f_BF.sum() / x_BD.numel(), rtol=1e-6, atol=0)
    price_BF = torch.where(f_BF > SMALL, f_BF**p, f_BF * SMALL ** (p - 1))
    torch.testing.assert_close(sae.strength.double(), f_BF.sum() / price_BF.sum(), rtol=1e-6, atol=0)
    sae.zero_grad()
    sae.training_output(x_BD, x_BD, penalty_share=1.0).loss.backward()
    free = annealed(step)
    free.training_output(x_BD, x_BD, penalty_share=0.0).loss.backward()
    slope_BF = torch.where(f_BF > SMALL, p * f_BF ** (p - 1), SMALL ** (p - 1)) * (f_BF > 0)
    expected_F = COEFFICIENT * sae.strength.double() * slope_BF.sum(0) / x_BD.numel()
    assert sae.b_enc_F.grad is not None and free.b_enc_F.grad is not None
    torch.testing.assert_close(sae.b_enc_F.grad - free.b_enc_F.grad, expected_F, rtol=1e-5, atol=1e-9)


def test_an_annealed_penalty_without_active_latents_changes_nothing() -> None:
    sae, x_BD = annealed(6), normal(64, 8, dtype=torch.float64)
    strength = sae.strength.item()
    with torch.no_grad():
        sae.b_enc_F -= 1000
    output = sae.training_output(x_BD, x_BD)
    output.loss.backward()
    assert output.loss.isfinite() and sae.strength.item() == strength
    assert all(one.grad is None or one.grad.isfinite().all() for one in sae.parameters())


def test_what_the_gate_finds_reconstructs_by_a_decoder_that_does_not_learn_from_it() -> None:
    gradients: list[Tensor] = []
    for sae in (double("gated"), double("gated")):
        assert isinstance(sae, GatedSAE)
        x_BD = normal(64, 8, dtype=torch.float64)
        reconstructed = (x_BD - sae.decode(sae.encode(x_BD))).square().mean()
        loss = reconstructed if gradients else sae.training_output(x_BD, x_BD).loss
        loss.backward()
        assert sae.W_dec_FD.grad is not None
        gradients.append(sae.W_dec_FD.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
def test_a_threshold_learns_as_the_expected_loss_changes() -> None:
    """A batch's loss is a staircase of the thresholds, without a slope; its mean over many activations has one."""
    sae, x_BD = double("jumprelu", 4, 6), normal(400_000, 4, dtype=torch.float64)
    assert isinstance(sae, JumpReLUSAE)
    sae.bandwidth = 0.1
    sae.training_output(x_BD, x_BD).loss.backward()
    gradient_F = sae.threshold_F.grad
    assert gradient_F is not None

    def loss_at(latent: int, change: float) -> float:
        with torch.no_grad():
            sae.threshold_F[latent] += change
            loss = sae.training_output(x_BD, x_BD).loss.item()
            sae.threshold_F[latent] -= change
        return loss

    slopes = [(loss_at(latent, 0.05) - loss_at(latent, -0.05)) / 0.1 for latent in range(6)]
    torch.testing.assert_close(gradient_F, torch.tensor(slopes, dtype=torch.float64), rtol=0.05, atol=0.002)
    assert sorted(abs(slope) for slope in slopes)[3] > 0.01


@every_architecture
@pytest.mark.parametrize("seed", range(3))
def test_a_step_at_few_places_is_the_dense_one(architecture: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masked_sae.saes.penalty_family.MOST", 1.0)
    x_BD, target_BD = normal(64, 8, seed=seed, dtype=torch.float64), normal(64, 8, seed=9, dtype=torch.float64)
    hidden_BF = torch.rand(64, 48, generator=torch.Generator().manual_seed(seed)) < 0.2
    results: list[list[Tensor]] = []
    for reference in (True, False):
        sae, read_BD = double(architecture), x_BD.clone().requires_grad_()
        sae.reference = reference
        output = sae.training_output(read_BD, target_BD, lambda pre_BF: pre_BF.masked_fill(hidden_BF, -torch.inf), 0.5)
        output.loss.backward()
        gradients = [tensor.grad for tensor in (read_BD, *sae.parameters()) if tensor.grad is not None]
        assert len(gradients) == len(list(sae.parameters())) + 1
        results.append([*gradients, *(value.double() for value in vars(output).values()), sae.silent_for_F])
    for dense, sparse in zip(*results, strict=True):
        torch.testing.assert_close(sparse, dense)


@every_architecture
def test_the_step_is_sparse_once_few_latents_are_active(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def note(self: SparseSupport, places_A: Tensor, batch: int, d_sae: int) -> None:
        shares.append(len(places_A) / (batch * d_sae))
        few_init(self, places_A, batch, d_sae)

    few_init = SparseSupport.__init__
    monkeypatch.setattr(SparseSupport, "__init__", note)
    sae, x_BD = double(architecture), normal(64, 8, dtype=torch.float64)
    assert sae.training_output(x_BD, x_BD).l0 > MOST * sae.d_sae and not shares
    with torch.no_grad():
        sae.b_enc_F -= 6
    assert 0 < sae.training_output(x_BD, x_BD).l0 < MOST * sae.d_sae
    assert len(shares) == 1 and 0 < shares[0] <= MOST
    with torch.no_grad():
        sae.b_enc_F -= 1000  # no latent is active at all
    output = sae.training_output(x_BD, x_BD)
    output.loss.backward()
    assert shares[1:] == [0.0] and output.l0 == 0 and output.loss.isfinite()


@every_architecture
def test_the_penalty_grows_with_its_coefficient_and_its_share(architecture: str) -> None:
    x_BD = normal(32, 8, dtype=torch.float64)
    outputs = [double(architecture).training_output(x_BD, x_BD, penalty_share=share) for share in (0.0, 0.25, 1.0)]
    free, quarter, whole = (output.loss.item() for output in outputs)
    assert free == pytest.approx((outputs[0].reconstruction_loss + outputs[0].auxiliary_loss).item())
    assert quarter - free == pytest.approx((whole - free) / 4) and whole > free
    assert whole - free == pytest.approx(COEFFICIENT * outputs[0].sparsity_loss.item())


@every_architecture
def test_hidden_latents_are_not_active_and_learn_nothing(architecture: str) -> None:
    sae, x_BD = double(architecture), normal(32, 8, dtype=torch.float64)
    hidden_F = torch.arange(sae.d_sae) % 3 == 0
    sae.training_output(x_BD, x_BD, lambda pre_BF: pre_BF.masked_fill(hidden_F, -torch.inf)).loss.backward()
    assert (sae.silent_for_F[hidden_F] == 32).all()
    for parameter in sae.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        if len(parameter) == sae.d_sae:
            assert not parameter.grad[hidden_F].any() and parameter.grad[~hidden_F].any()


@every_architecture
def test_the_decoder_gives_back_the_target_and_not_what_the_encoder_read(architecture: str) -> None:
    sae, x_BD = double(architecture), normal(32, 8, dtype=torch.float64)
    target_BD = sae(x_BD).detach().requires_grad_()
    output = sae.training_output(x_BD, target_BD)
    assert output.reconstruction_loss < 1e-20
    output.loss.backward()
    assert target_BD.grad is None


def trained(architecture: str, coefficient: float) -> PenalizedSAE:
    """On sparse sums of as many directions as there are latents."""
    sae = PENALIZED[architecture](16, 48, coefficient, generator=torch.Generator().manual_seed(0))
    directions_FD = torch.nn.functional.normalize(normal(48, 16, seed=3), dim=1)
    optimizer = torch.optim.Adam(sae.parameters(), lr=3e-3, fused=True)
    for step in range(400):
        generator = torch.Generator().manual_seed(step)
        present_BF = torch.rand(256, 48, generator=generator) < 0.06
        x_BD = 2 * (present_BF * (1 + torch.rand(256, 48, generator=generator))) @ directions_FD
        sae.training_output(x_BD, x_BD, penalty_share=min(1, step / 100)).loss.backward()
        sae.project_decoder_gradient()
        optimizer.step()
        sae.project_parameters()
        optimizer.zero_grad()
    return sae


@pytest.mark.slow
@every_architecture
def test_a_larger_coefficient_leaves_fewer_latents_and_a_larger_error(architecture: str) -> None:
    x_BD = 2 * normal(512, 48).relu() @ normal(48, 16, seed=3) / 16
    outputs = [trained(architecture, coefficient).training_output(x_BD, x_BD) for coefficient in (0.1, 1.0, 5.0)]
    l0s = [output.l0.item() for output in outputs]
    errors = [output.squared_error.item() for output in outputs]
    assert l0s[0] > 1.2 * l0s[1] > 1.4 * l0s[2] > 0
    assert errors[0] < errors[1] < errors[2]


@every_architecture
@pytest.mark.parametrize("reference", [True, False])
def test_a_weight_that_is_not_a_number_shows_in_the_loss(
    architecture: str, reference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masked_sae.saes.penalty_family.MOST", 1.0)
    sae, x_BD = double(architecture), normal(16, 8, dtype=torch.float64)
    sae.reference = reference
    with torch.no_grad():
        sae.W_enc_FD[3, 2] = torch.nan
    assert sae.training_output(x_BD, x_BD).loss.isnan()


def test_thresholds_stay_at_zero_or_above() -> None:
    sae = double("jumprelu")
    assert isinstance(sae, JumpReLUSAE)
    with torch.no_grad():
        sae.threshold_F[::2] = -1.0
    kept_F = sae.threshold_F[1::2].clone()
    sae.project_parameters()
    assert not sae.threshold_F[::2].any() and torch.equal(sae.threshold_F[1::2], kept_F)
    assert (sae.encode(normal(64, 8, dtype=torch.float64)) >= 0).all()


def test_a_gates_threshold_says_what_the_gate_does() -> None:
    """Also where a latent's magnitude would be above 0 with its gate closed, and the reverse."""
    sae, x_BD = double("gated"), normal(256, 8, dtype=torch.float64)
    W_enc_FD, b_enc_F = sae.inference_encoder()
    magnitude_BF = (x_BD - sae.b_dec_D) @ W_enc_FD.T + b_enc_F
    f_BF = sae.encode(x_BD)
    torch.testing.assert_close(torch.where(magnitude_BF > sae.thresholds(), magnitude_BF, 0.0), f_BF)
    gate_BF = sae.pre_activations(x_BD)
    assert ((gate_BF > 0) & (magnitude_BF < 0)).any() and ((gate_BF < 0) & (magnitude_BF > 0)).any()


@pytest.mark.parametrize("options", [{"threshold_init": -0.1}, {"bandwidth": 0.0}])
def test_wrong_thresholds_and_bandwidths_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        JumpReLUSAE(8, 16, 1.0, **options)


@every_architecture
def test_encoder_rows_begin_where_the_decoders_point_with_the_norm_that_is_asked(architecture: str) -> None:
    tied, small = (
        PENALIZED[architecture](16, 128, 1.0, generator=torch.Generator().manual_seed(0), **options)
        for options in ({}, {"encoder_norm_init": 0.1})
    )
    assert torch.equal(tied.W_enc_FD, tied.W_dec_FD)
    assert torch.equal(small.W_dec_FD, tied.W_dec_FD)
    torch.testing.assert_close(small.W_enc_FD, 0.1 * tied.W_dec_FD)


@pytest.mark.parametrize("architecture", ["relu", "gated"])
def test_small_encoder_rows_do_not_overshoot(architecture: str) -> None:
    x_BD = normal(512, 16)
    errors = [
        PENALIZED[architecture](16, 256, 1.0, encoder_norm_init=norm, generator=torch.Generator().manual_seed(0))
        .training_output(x_BD, x_BD)
        .squared_error.item()
        for norm in (1.0, 0.1)
    ]
    assert errors[0] > 10 * x_BD.square().sum(1).mean() > 10 * errors[1]
