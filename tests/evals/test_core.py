"""Core metrics against independent computations."""

import pytest
import torch
from making import CONTEXT_LIMIT

from masked_sae.evals.core import ReconstructionSums, at_kept, evaluate_core, predicted
from masked_sae.lm import LM
from masked_sae.saes import TopKSAE
from masked_sae.stream import Layout, make_layout


class Identity(TopKSAE):
    """An SAE with a latent for each direction and its opposite: it gives back every activation."""

    def __init__(self, d_in: int) -> None:
        super().__init__(d_in, 2 * d_in, 2 * d_in)
        with torch.no_grad():
            self.W_dec_FD.copy_(torch.cat([torch.eye(d_in), -torch.eye(d_in)]))
            self.W_enc_FD.copy_(self.W_dec_FD)


def layout_of(lm: LM) -> Layout:
    tokens = torch.randint(5, 50, (40 * CONTEXT_LIMIT,), generator=torch.Generator().manual_seed(0)).numpy()
    return make_layout(tokens, 16, lm.special)


def measure(sae: TopKSAE, lm: LM, layout: Layout) -> dict[str, float]:
    return evaluate_core(sae, lm, layout, scale=0.5, tokens=400, batch_size=7, dense_frequency=0.1)


@pytest.mark.parametrize("model", ["neox", "bert"])
def test_a_perfect_sae_recovers_everything(model: str, request: pytest.FixtureRequest) -> None:
    lm: LM = request.getfixturevalue(model)
    metrics = measure(Identity(lm.d_in), lm, layout_of(lm))
    assert metrics["core/explained_variance"] == pytest.approx(1, abs=1e-5)
    assert metrics["core/cosine_similarity"] == pytest.approx(1, abs=1e-5)
    assert metrics["core/ce_recovered"] == pytest.approx(1, abs=1e-3)
    assert metrics["core/kl_sae"] == pytest.approx(0, abs=1e-4)
    assert metrics["core/l0"] == pytest.approx(lm.d_in, rel=1e-3)
    assert metrics["core/dead_latents"] < 0.3 and metrics["core/dense_latents"] > 0.5


def test_an_sae_that_gives_zeros_is_a_zero_ablation(neox: LM) -> None:
    nothing = Identity(neox.d_in)
    with torch.no_grad():
        nothing.W_dec_FD.zero_()
    metrics = measure(nothing, neox, layout_of(neox))
    assert metrics["core/ce_sae"] == pytest.approx(metrics["core/ce_zero"])
    assert metrics["core/ce_recovered"] == pytest.approx(0, abs=1e-6)
    assert metrics["core/kl_recovered"] == pytest.approx(0, abs=1e-6)


def test_clean_cross_entropy_is_the_lms_own_loss(neox: LM) -> None:
    layout = layout_of(neox)
    sequences = -(-400 // layout.content_length)
    import numpy as np

    chosen = np.linspace(0, len(layout) - 1, sequences).round().astype(np.int64)
    tokens_NT, _ = layout.read(chosen)
    with torch.inference_mode():
        loss = neox.bridge.original_model(tokens_NT, labels=tokens_NT).loss.item()
    assert measure(Identity(neox.d_in), neox, layout)["core/ce_clean"] == pytest.approx(loss, rel=1e-5)


def test_an_encoder_predicts_only_tokens_that_were_hidden(bert: LM) -> None:
    tokens_NT, kept_NT = layout_of(bert).read(torch.arange(20).numpy())
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
    assert metrics.l0 == pytest.approx((f_BF > 0).sum(1).double().mean().item())
    assert metrics.dead_latents == pytest.approx(((f_BF > 0).sum(0) == 0).double().mean().item())
    assert metrics.dense_latents == pytest.approx(((f_BF > 0).double().mean(0) > 0.5).double().mean().item())
