"""An SAE after training does what it did in evaluation, on activations at the LM's own scale."""

from dataclasses import replace

import pytest
import torch

from masked_sae.saes import SAE, BatchTopKSAE, InferenceSAE, begin_as, for_inference
from support.architectures import ARCHITECTURES, trained

SCALE = 0.2


@pytest.mark.parametrize("kind", ARCHITECTURES)
@torch.no_grad()
def test_the_scale_is_folded_in(kind: str) -> None:
    with torch.enable_grad():
        sae = trained(kind)
    x_BD = torch.randn(30, 16, generator=torch.Generator().manual_seed(1)) / SCALE
    fixed = for_inference(sae, SCALE)
    torch.testing.assert_close(fixed.encode(x_BD), sae.encode(x_BD * SCALE) / SCALE, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fixed(x_BD), sae(x_BD * SCALE) / SCALE, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fixed.W_dec_FD.norm(dim=1), torch.ones(64))


def test_a_given_threshold_decides_alone() -> None:
    sae = for_inference(trained("topk"), 1.0).with_threshold(0.7)
    x_BD = torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    pre_BF = sae.pre_activations(x_BD)
    assert torch.equal(sae.encode(x_BD), torch.where(pre_BF > 0.7, pre_BF, 0.0))


def test_a_negative_threshold_lets_no_negative_latent_through() -> None:
    sae = for_inference(trained("batch_topk"), 1.0).with_threshold(-1.0)
    assert (sae.encode(torch.randn(30, 16, generator=torch.Generator().manual_seed(1))) >= 0).all()


def test_latents_by_rank_are_the_same_with_static_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x_BD = for_inference(trained("topk"), 1.0), torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    dynamic_BF = sae.encode(x_BD)
    monkeypatch.setattr("masked_sae.saes.inference.static_on", lambda device: True)
    assert torch.equal(sae.encode(x_BD), dynamic_BF) and dynamic_BF.any()


def test_either_thresholds_or_k() -> None:
    sae = for_inference(trained("topk"), 1.0)
    with pytest.raises(ValueError, match="either"):
        replace(sae, threshold_F=torch.zeros(64))
    assert isinstance(sae, InferenceSAE) and sae.d_in == 16 and sae.d_sae == 64


def test_an_sae_whose_latents_are_active_by_rank_says_how_many() -> None:
    """Also one that is not ours: nothing asks what class it is of."""

    class Mine(BatchTopKSAE):
        def thresholds(self) -> None:  # type: ignore[override]
            return None

        @property
        def inference_k(self) -> int:
            return 3

    fixed = for_inference(Mine(16, 64, 5, generator=torch.Generator().manual_seed(0)), 1.0)
    x_BD = torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    assert fixed.k == 3 and ((fixed.encode(x_BD) > 0).sum(1) <= 3).all()


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("subtracts", [True, False])
@torch.no_grad()
def test_an_sae_begins_as_what_another_was_exported_as(kind: str, subtracts: bool) -> None:
    """Whatever its decoder's norms and the scale: at any scale, the exports of both compute the same."""
    with torch.enable_grad():
        exported, sae = for_inference(trained(kind), SCALE), fresh(kind)
    if not subtracts:
        exported = replace(exported, b_in_D=torch.zeros(16))
    norms_F = torch.linspace(0.5, 2, 64) if exported.k is None else torch.full((64,), 2.0)
    stretched = replace(
        exported,
        W_enc_DF=exported.W_enc_DF / norms_F,
        b_enc_F=exported.b_enc_F / norms_F,
        W_dec_FD=exported.W_dec_FD * norms_F[:, None],
        threshold_F=None if exported.threshold_F is None else exported.threshold_F / norms_F,
    )
    if kind in ("batch_topk", "matryoshka"):
        stretched = exported
    x_BD = torch.randn(30, 16, generator=torch.Generator().manual_seed(1)) / SCALE
    torch.testing.assert_close(stretched(x_BD), exported(x_BD), rtol=1e-4, atol=1e-4)
    begin_as(sae, stretched, 3 * SCALE)
    begun = for_inference(sae, 3 * SCALE)
    if kind in ("batch_topk", "matryoshka"):  # whose threshold is learned anew
        begun = replace(begun, threshold_F=exported.threshold_F)
    torch.testing.assert_close(begun.encode(x_BD), exported.encode(x_BD), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(begun(x_BD), exported(x_BD), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "other"),
    [("relu", "jumprelu"), ("relu", "topk"), ("jumprelu", "topk"), ("gated", "topk"), ("topk", "jumprelu"),
     ("batch_topk", "gated"), ("matryoshka", "gated")],
)  # fmt: skip
def test_what_an_architecture_cannot_say_it_does_not_begin_as(kind: str, other: str) -> None:
    with pytest.raises(ValueError, match="latent"):
        begin_as(fresh(kind), for_inference(trained(other), SCALE), SCALE)


@pytest.mark.parametrize(("kind", "other"), [("gated", "relu"), ("gated", "jumprelu"), ("jumprelu", "gated")])
@torch.no_grad()
def test_thresholds_are_taken_over_by_whatever_has_some(kind: str, other: str) -> None:
    with torch.enable_grad():
        exported, sae = for_inference(trained(other), SCALE), fresh(kind)
    begin_as(sae, exported, SCALE)
    x_BD = torch.randn(30, 16, generator=torch.Generator().manual_seed(1)) / SCALE
    torch.testing.assert_close(for_inference(sae, SCALE)(x_BD), exported(x_BD), rtol=1e-3, atol=1e-4)


def test_latents_that_compete_are_not_given_other_weights() -> None:
    exported = for_inference(trained("topk"), SCALE)
    other = replace(exported, W_dec_FD=exported.W_dec_FD * torch.linspace(0.5, 2, 64)[:, None])
    with pytest.raises(ValueError, match="decoder rows of one norm"):
        begin_as(fresh("topk"), other, SCALE)


def fresh(kind: str) -> SAE:
    """Of the same architecture, with other weights."""
    sae = trained(kind)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(5))
    return sae
