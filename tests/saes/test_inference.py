"""An SAE after training does what it did in evaluation, on activations at the LM's own scale."""

from dataclasses import replace

import pytest
import torch

from masked_sae.saes import BatchTopKSAE, InferenceSAE, for_inference
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
