"""What a latent does to the predictions, beside the LM's own forward with its decoder row as the residual stream."""

from pathlib import Path

import pytest
import torch

from masked_sae.activations.lm import LM, load_lm
from masked_sae.latents.promoted import direct_effects, why_no_effects
from support.making import D_IN, HOOK, LAYERS, make_gpt2, make_neox

LAST = f"blocks.{LAYERS - 1}.hook_resid_post"


@pytest.fixture(params=[make_neox, make_gpt2])
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> LM:
    """Its own: its final norm is changed."""
    found = load_lm(str(request.param(tmp_path)), HOOK)
    for name, parameter in found.bridge.original_model.named_parameters():  # as it comes it has scale 1 and bias 0
        if "final_layer_norm" in name or "ln_f" in name:
            parameter.data = torch.rand(D_IN, generator=torch.Generator().manual_seed(len(name))) + 0.5
    return found


def test_it_is_the_rows_own_logits_behind_the_final_norm(lm: LM) -> None:
    W_dec_FD = torch.randn(7, D_IN, generator=torch.Generator().manual_seed(0))
    found = direct_effects(lm, W_dec_FD, 4)
    tokens_NT = torch.ones(1, 7, dtype=torch.int64)
    at_the_end = lm.at(LAST)
    rows_1FV = at_the_end.logits(tokens_NT, lambda x: W_dec_FD[None] * 1e5)
    logits_FV = (rows_1FV - at_the_end.logits(tokens_NT, torch.zeros_like))[0, :, : lm.vocab_size]
    expected_FV = logits_FV - logits_FV.mean(1, keepdim=True)
    torch.testing.assert_close(found.raise_FM, expected_FV.topk(4, dim=1).values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.lower_FM, expected_FV.topk(4, dim=1, largest=False).values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(expected_FV.gather(1, found.raised_FM), found.raise_FM, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(expected_FV.gather(1, found.lowered_FM), found.lower_FM, rtol=1e-3, atol=1e-3)


def test_where_there_are_none_it_is_said_why(neox: LM, bert: LM, bert_base_folder: Path) -> None:
    assert why_no_effects(neox) == ""
    assert "output layer" in why_no_effects(bert)
    assert "output layer" in why_no_effects(load_lm(str(bert_base_folder), HOOK))
    assert "blocks.1.mlp.hook_post is not in the residual stream" in why_no_effects(neox.at("blocks.1.mlp.hook_post"))
