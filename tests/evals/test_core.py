"""Core metrics against independent computations."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from masked_sae.activations.held_out import sequences_to_measure
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences, make_sequences
from masked_sae.evals.core import ReconstructionSums, evaluate_core, max_decoder_cosine
from masked_sae.evals.predictions import at_kept, predicted, put
from masked_sae.saes import InferenceSAE
from support.counting import calls_of, forwards_of
from support.making import CONTEXT_LIMIT


def identity(d_in: int) -> InferenceSAE:
    """An SAE with a latent for each direction and its opposite: it gives back every activation."""
    rows_FD = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    zeros_D, zeros_F = torch.zeros(d_in), torch.zeros(2 * d_in)
    return InferenceSAE(rows_FD.T.contiguous(), zeros_F, rows_FD, zeros_D, zeros_D, threshold_F=zeros_F)


def sequences_of(lm: LM) -> Sequences:
    tokens = torch.randint(5, 50, (40 * CONTEXT_LIMIT,), generator=torch.Generator().manual_seed(0)).numpy()
    return make_sequences(tokens, 16, lm.special)


def measure(sae: InferenceSAE, lm: LM, sequences: Sequences) -> dict[str, float]:
    return measure_all([sae], lm, sequences)[0]


def measure_all(saes: Sequence[InferenceSAE], lm: LM, sequences: Sequences) -> list[dict[str, float]]:
    found = evaluate_core(saes, lm, sequences, tokens=400, batch_size=7, dense_frequency=0.1)
    return [core.metrics for core in found]


@pytest.mark.parametrize("model", ["neox", "bert"])
def test_a_perfect_sae_recovers_everything(model: str, request: pytest.FixtureRequest) -> None:
    lm: LM = request.getfixturevalue(model)
    metrics = measure(identity(lm.d_in), lm, sequences_of(lm))
    assert metrics["explained_variance"] == pytest.approx(1, abs=1e-5)
    assert metrics["cosine_similarity"] == pytest.approx(1, abs=1e-5)
    assert metrics["ce_recovered"] == pytest.approx(1, abs=1e-3)
    assert metrics["kl_sae"] == pytest.approx(0, abs=1e-4)
    assert metrics["l0"] == pytest.approx(lm.d_in, rel=1e-3)
    assert metrics["dead_latents"] < 0.3 and metrics["dense_latents"] > 0.5


def test_an_sae_that_gives_zeros_is_a_zero_ablation(neox: LM) -> None:
    nothing = identity(neox.d_in)
    metrics = measure(replace(nothing, W_dec_FD=torch.zeros_like(nothing.W_dec_FD)), neox, sequences_of(neox))
    assert metrics["ce_sae"] == pytest.approx(metrics["ce_zero"])
    assert metrics["ce_recovered"] == pytest.approx(0, abs=1e-6)
    assert metrics["kl_recovered"] == pytest.approx(0, abs=1e-6)


def test_clean_cross_entropy_is_the_lms_own_loss(neox: LM) -> None:
    sequences = sequences_of(neox)
    tokens_NT, _ = sequences.read(sequences_to_measure(sequences, 400))
    with torch.inference_mode():
        loss = neox.bridge.original_model(tokens_NT, labels=tokens_NT).loss.item()
    assert measure(identity(neox.d_in), neox, sequences)["ce_clean"] == pytest.approx(loss, rel=1e-5)


def test_an_encoder_predicts_only_tokens_that_were_hidden(bert: LM) -> None:
    tokens_NT, kept_NT = sequences_of(bert).read(torch.arange(20).numpy())
    read_NT, counts_NT, wanted_NT = predicted(bert, tokens_NT, kept_NT, 0)
    assert torch.equal(read_NT == bert.tokenizer.mask_token_id, counts_NT)
    assert torch.equal(wanted_NT, tokens_NT)
    assert not (counts_NT & ~kept_NT).any()
    assert 0.08 < counts_NT.sum() / kept_NT.sum() < 0.22


def test_special_positions_keep_their_activation() -> None:
    kept_NT = torch.tensor([[False, True, True]])
    x_NTD = torch.randn(1, 3, 4)
    changed_NTD = at_kept(lambda x_BD: x_BD + 1, kept_NT)(x_NTD)
    assert torch.equal(changed_NTD[:, 0], x_NTD[:, 0])
    assert torch.equal(changed_NTD[:, 1:], x_NTD[:, 1:] + 1)


def test_sums_over_batches_equal_the_whole() -> None:
    torch.manual_seed(0)
    x_BD, f_BF = torch.randn(50, 6), torch.relu(torch.randn(50, 9) - 1)
    f_BF[:, 0], f_BF[:, 1] = 0, 1
    x_hat_BD = x_BD + 0.3 * torch.randn(50, 6)
    sums = ReconstructionSums(6, 9)
    for part in torch.arange(50).split(7):
        sums.add(x_BD[part], f_BF[part], x_hat_BD[part])
    metrics = sums.metrics(dense_frequency=0.5)
    variance = (x_BD - x_BD.mean(0)).square().sum(1).mean()
    error = (x_BD - x_hat_BD).square().sum(1).mean()
    assert metrics.explained_variance == pytest.approx(1 - (error / variance).item(), rel=1e-5)
    assert metrics.l1 == pytest.approx(f_BF.sum(1).double().mean().item(), rel=1e-5)
    ratio = (x_hat_BD.norm(dim=1) / x_BD.norm(dim=1)).mean().item()
    assert metrics.l2_ratio == pytest.approx(ratio, rel=1e-5)
    bias = x_hat_BD.square().sum() / (x_BD * x_hat_BD).sum()
    assert metrics.relative_reconstruction_bias == pytest.approx(bias.item(), rel=1e-5)
    assert metrics.alive_latents == 1 - metrics.dead_latents
    assert metrics.l0 == pytest.approx((f_BF > 0).sum(1).double().mean().item())
    assert metrics.dead_latents == pytest.approx(((f_BF > 0).sum(0) == 0).double().mean().item())
    assert metrics.dense_latents == pytest.approx(((f_BF > 0).double().mean(0) > 0.5).double().mean().item())


def test_a_shrunken_reconstruction_shows_in_ratio_and_bias() -> None:
    x_BD = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    sums = ReconstructionSums(6, 9)
    sums.add(x_BD, torch.ones(50, 9), 0.5 * x_BD)
    metrics = sums.metrics(dense_frequency=0.1)
    assert metrics.l2_ratio == pytest.approx(0.5)
    assert metrics.relative_reconstruction_bias == pytest.approx(0.5)
    assert metrics.cosine_similarity == pytest.approx(1)


def test_the_largest_decoder_cosine_is_that_of_the_nearest_other_row() -> None:
    W_dec_FD = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 1, 1], [3, 0, 0]])
    half = F.cosine_similarity(W_dec_FD[1], W_dec_FD[2], dim=0).item()
    assert max_decoder_cosine(W_dec_FD, chunk=3).mean().item() == pytest.approx((1 + half + half + 1) / 4)


def test_the_zero_ablation_of_another_sae_is_this_ones_too(neox: LM) -> None:
    sequences = sequences_of(neox)
    first = measure(identity(neox.d_in), neox, sequences)
    other = replace(identity(neox.d_in), threshold_F=torch.ones(2 * neox.d_in))
    (again,) = evaluate_core([other], neox, sequences, tokens=400, batch_size=7, dense_frequency=0.1, known=first)
    assert again.metrics == measure(other, neox, sequences)


def different_saes(d_in: int) -> list[InferenceSAE]:
    saes = [replace(identity(d_in), threshold_F=torch.full((2 * d_in,), at)) for at in (0.0, 0.3, 1.0)]
    return [*saes, replace(identity(d_in), threshold_F=None, k=5)]


@pytest.mark.parametrize("model", ["neox", "bert"])
def test_each_of_several_saes_is_measured_as_it_is_alone(model: str, request: pytest.FixtureRequest) -> None:
    lm: LM = request.getfixturevalue(model)
    saes, sequences = different_saes(lm.d_in), sequences_of(lm)
    alone = [measure(sae, lm, sequences) for sae in saes]
    assert measure_all(saes, lm, sequences) == alone
    assert measure_all(saes[::-1], lm, sequences) == alone[::-1]
    assert len({metrics["ce_sae"] for metrics in alone}) == 4


@pytest.mark.parametrize(("model", "shared"), [("neox", 2), ("bert", 3)])
def test_the_lm_is_run_once_for_all_saes_and_from_the_hook_point_on_for_each(
    model: str, shared: int, request: pytest.FixtureRequest
) -> None:
    """Clean and with zeros; an encoder, which predicts tokens that are hidden, also up to the hook point without."""
    lm: LM = request.getfixturevalue(model)
    saes, sequences = different_saes(lm.d_in), sequences_of(lm)
    measure(saes[0], lm, sequences)  # by now it is known that the LM resumes
    batches = math.ceil(len(sequences_to_measure(sequences, 400)) / 7)
    for several in (saes[:1], saes):
        with forwards_of(lm) as forwards, calls_of(lm.bridge.blocks[0].original_component) as first_blocks:
            measure_all(several, lm, sequences)
        assert len(forwards) == batches * (shared + len(several))
        assert len(first_blocks) == batches * (shared - 1)


def test_reconstructions_are_put_where_they_belong() -> None:
    kept_NT = torch.tensor([[False, True, True], [True, False, True]])
    x_NTD = torch.randn(2, 3, 4)
    put_NTD = put(x_NTD[kept_NT] + 1, kept_NT)(x_NTD)
    assert torch.equal(put_NTD, at_kept(lambda x_BD: x_BD + 1, kept_NT)(x_NTD))
