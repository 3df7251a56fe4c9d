"""What we write, SAELens reads: the same latents and reconstructions, on the LM's own activations."""

from pathlib import Path

import pytest
import torch

from masked_sae.interop.saelens import export_sae
from masked_sae.saes import SAE, BatchTopKSAE, MatryoshkaSAE, TopKSAE

SCALE = 0.37


def trained(kind: str) -> SAE:
    generator = torch.Generator().manual_seed(0)
    if kind == "topk":
        sae: SAE = TopKSAE(16, 64, 5, generator=generator)
    elif kind == "batch_topk":
        sae = BatchTopKSAE(16, 64, 5, generator=generator)
    else:
        sae = MatryoshkaSAE(16, 64, 5, groups=[16, 48], generator=generator)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        x_BD = torch.randn(32, 16, generator=generator) + 1
        sae.training_output(x_BD, x_BD).loss.backward()
        optimizer.step()
        sae.normalize_decoder()
    return sae.eval()


@pytest.mark.parametrize("kind", ["topk", "batch_topk", "matryoshka"])
@torch.no_grad()
def test_saelens_loads_it_and_encodes_the_same(kind: str, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="the extra `peers` is not installed")
    with torch.enable_grad():
        sae = trained(kind)
    export_sae(tmp_path / "sae", sae, SCALE, {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"})
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "sae"))
    x_BD = torch.randn(40, 16, generator=torch.Generator().manual_seed(1)) / SCALE
    f_BF = sae.encode(x_BD * SCALE)
    assert (f_BF > 0).any()
    torch.testing.assert_close(theirs.encode(x_BD), f_BF / SCALE, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs(x_BD), sae.decode(f_BF) / SCALE, rtol=1e-4, atol=1e-5)
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
