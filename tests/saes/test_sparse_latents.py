"""Sparse latents are the dense ones, and decode to the same."""

import pytest
import torch

from masked_sae.saes import InferenceSAE, for_inference, sparse_latents
from support.architectures import trained


@pytest.fixture(params=["topk", "jumprelu"])
def sae(request: pytest.FixtureRequest) -> InferenceSAE:
    return for_inference(trained(request.param), 0.5)


@pytest.mark.parametrize("leading", [(), (1,), (7,), (3, 5), (2, 1, 4), (0,)])
@pytest.mark.parametrize("at_once", [1, 200, 2**24])
def test_they_are_the_dense_ones(
    sae: InferenceSAE, leading: tuple[int, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_latents, "_AT_ONCE", at_once)
    x = torch.randn(*leading, 16, generator=torch.Generator().manual_seed(1))
    f = sae.encode_sparse(x)
    assert f.shape == (*leading, 64) and f.is_coalesced() and bool((f.values() > 0).all())
    torch.testing.assert_close(f.to_dense(), sae.encode(x), rtol=1e-5, atol=1e-6)  # a product's rounding is its size's


@pytest.mark.parametrize("leading", [(1,), (7,), (3, 5), (2, 1, 4)])
def test_sparse_latents_decode_as_dense_ones(sae: InferenceSAE, leading: tuple[int, ...]) -> None:
    x = torch.randn(*leading, 16, generator=torch.Generator().manual_seed(1))
    assert sae(x).shape == x.shape
    torch.testing.assert_close(sae.decode(sae.encode_sparse(x)), sae(x), rtol=1e-5, atol=1e-5)


def test_any_of_torchs_sparse_layouts_decodes(sae: InferenceSAE) -> None:
    f_BF = sae.encode(torch.randn(9, 16, generator=torch.Generator().manual_seed(1)))
    for sparse in (f_BF.to_sparse_csr(), f_BF.to_sparse_coo()):
        torch.testing.assert_close(sae.decode(sparse), sae.decode(f_BF), rtol=1e-5, atol=1e-5)


def test_leading_dimensions_do_not_change_an_activations_latents(sae: InferenceSAE) -> None:
    x_NTD = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sae.encode(x_NTD).flatten(0, 1), sae.encode(x_NTD.flatten(0, 1)))
    assert torch.equal(sae(x_NTD).flatten(0, 1), sae(x_NTD.flatten(0, 1)))


def test_another_size_is_refused_rather_than_reshaped(sae: InferenceSAE) -> None:
    with pytest.raises(ValueError, match="expected 16"):
        sae.encode(torch.zeros(2, 32))
    with pytest.raises(ValueError, match="expected 64"):
        sae.decode(torch.zeros(1, 128))


def test_activations_of_another_precision_are_read_as_float32(sae: InferenceSAE) -> None:
    x_BD = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(sae.encode(x_BD), sae.encode(x_BD.float()))
