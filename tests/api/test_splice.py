"""An SAE in a forward: what it changes, what it leaves, and that nothing stays."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from masked_sae import InferenceSAE, splice, steer
from masked_sae.activations.lm import LM
from masked_sae.activations.suffix import clean_pass
from masked_sae.errors import InputError
from support.making import HOOK


@pytest.fixture(scope="module")
def sae() -> InferenceSAE:
    """Random, of the small LMs' size; it reads at their hook point."""
    generator = torch.Generator().manual_seed(3)
    W_dec_FD = torch.nn.functional.normalize(torch.randn(96, 32, generator=generator), dim=1)
    bias_D = torch.randn(32, generator=generator) / 10
    return InferenceSAE(
        W_dec_FD.T.contiguous(), torch.zeros(96), W_dec_FD, bias_D, bias_D, k=8, metadata={"hook_name": HOOK}
    )


@pytest.fixture(scope="module", name="tokens_NT")
def _tokens() -> Tensor:
    """Two sequences of the byte tokenizer, with BOS before each and an end of text within."""
    tokens_NT = torch.randint(1, 257, (2, 12), generator=torch.Generator().manual_seed(0))
    tokens_NT[:, 0] = 0
    tokens_NT[1, 7] = 0
    return tokens_NT


def logits(lm: LM, tokens_NT: Tensor) -> Tensor:
    with torch.inference_mode():
        return lm.bridge(tokens_NT, return_type="logits")


def at_hook_point(lm: LM, tokens_NT: Tensor, name: str = HOOK) -> Tensor:
    """As the layers after it read it: hooks of one's own, added later, see what those before them made."""
    seen: list[Tensor] = []
    with torch.inference_mode():
        lm.bridge.run_with_hooks(tokens_NT, fwd_hooks=[(name, lambda value, hook: seen.append(value.clone()))])
    return seen[0]


def test_layers_after_it_read_the_reconstruction_but_at_special_positions(
    neox: LM, sae: InferenceSAE, tokens_NT: Tensor
) -> None:
    x_NTD = at_hook_point(neox, tokens_NT)
    expected_NTD = torch.where((tokens_NT == 0)[..., None], x_NTD, sae(x_NTD))
    with splice(neox.bridge, sae):
        torch.testing.assert_close(at_hook_point(neox, tokens_NT), expected_NTD)
    with splice(neox.bridge, sae, keep_special=False):
        torch.testing.assert_close(at_hook_point(neox, tokens_NT), sae(x_NTD))


def test_its_predictions_are_those_that_ce_recovered_is_measured_by(
    neox: LM, sae: InferenceSAE, tokens_NT: Tensor
) -> None:
    """The independent oracle: `activations.suffix`, which the core metrics use."""
    passed, _ = clean_pass(neox, tokens_NT)
    special_NT1 = (tokens_NT == 0)[..., None]
    expected_NTV = passed.logits(lambda x_NTD: torch.where(special_NT1, x_NTD, sae(x_NTD)))
    with splice(neox.bridge, sae):
        torch.testing.assert_close(logits(neox, tokens_NT), expected_NTV, rtol=1e-4, atol=1e-4)


def test_with_the_error_kept_only_the_change_makes_a_difference(neox: LM, sae: InferenceSAE, tokens_NT: Tensor) -> None:
    x_NTD, clean = at_hook_point(neox, tokens_NT), logits(neox, tokens_NT)
    with splice(neox.bridge, sae, keep_error=True):
        assert torch.equal(logits(neox, tokens_NT), clean)
    strongest = int(sae.encode(x_NTD[:, 1:]).sum((0, 1)).argmax())

    def ablate(f_BF: Tensor) -> Tensor:
        f_BF[:, strongest] = 0
        return f_BF

    part_NTD = sae.encode(x_NTD)[..., strongest, None] * sae.W_dec_FD[strongest]
    expected_NTD = x_NTD - part_NTD.masked_fill((tokens_NT == 0)[..., None], 0)
    with splice(neox.bridge, sae, change=ablate, keep_error=True):
        torch.testing.assert_close(at_hook_point(neox, tokens_NT), expected_NTD)


@pytest.mark.parametrize("share", [0.5, -2.0])
def test_steering_adds_a_share_of_each_activations_norm(
    neox: LM, sae: InferenceSAE, tokens_NT: Tensor, share: float
) -> None:
    longer = replace(sae, W_dec_FD=sae.W_dec_FD * 7)  # somebody's SAE, with rows of another norm
    x_NTD, ordinary_NT = at_hook_point(neox, tokens_NT), tokens_NT != 0
    with steer(neox.bridge, longer, {5: share}):
        added_NTD = at_hook_point(neox, tokens_NT) - x_NTD
    assert not added_NTD[~ordinary_NT].any()
    torch.testing.assert_close(added_NTD[ordinary_NT].norm(dim=1), abs(share) * x_NTD[ordinary_NT].norm(dim=1))
    cosine_B = torch.cosine_similarity(added_NTD[ordinary_NT], sae.W_dec_FD[5], dim=1)
    torch.testing.assert_close(cosine_B, torch.full_like(cosine_B, 1.0 if share > 0 else -1.0))


def hooks_of(bridge: Any) -> int:
    points = {id(point): point for point in bridge.hook_dict.values()}.values()
    modules = list(bridge.modules())
    return sum(len(point.fwd_hooks) for point in points) + sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules
    )


@pytest.mark.parametrize("within", [splice, lambda bridge, sae: steer(bridge, sae, {1: 1.0})])
def test_the_bridge_is_left_as_it_was_also_after_an_exception(
    neox: LM, sae: InferenceSAE, tokens_NT: Tensor, within: Callable[[Any, InferenceSAE], Any]
) -> None:
    clean, before = logits(neox, tokens_NT), hooks_of(neox.bridge)
    with pytest.raises(KeyError), within(neox.bridge, sae):
        assert not torch.equal(logits(neox, tokens_NT), clean)
        raise KeyError
    assert hooks_of(neox.bridge) == before and torch.equal(logits(neox, tokens_NT), clean)


def test_hooks_that_were_there_stay(neox: LM, sae: InferenceSAE, tokens_NT: Tensor) -> None:
    calls: list[str] = []
    with neox.bridge.hooks(fwd_hooks=[(HOOK, lambda value, hook: calls.append("mine"))]):
        with splice(neox.bridge, sae):
            logits(neox, tokens_NT)
        logits(neox, tokens_NT)
    assert calls == ["mine", "mine"]


def test_it_works_within_a_generation(neox: LM, sae: InferenceSAE, tokens_NT: Tensor) -> None:
    """A step of which reads one new token, with what is kept of the ones before."""
    with torch.inference_mode(), splice(neox.bridge, sae):
        how = {"max_new_tokens": 3, "do_sample": False, "verbose": False}
        generated = neox.bridge.generate(tokens_NT[:1], **how)
        again = neox.bridge.generate(tokens_NT[:1], use_past_kv_cache=False, **how)
    assert torch.equal(generated, again) and generated.shape == (1, 15)


@pytest.mark.parametrize("name", ["blocks.9.hook_resid_post", "blocks.0.mlp.hook_post", None])
def test_a_hook_point_that_does_not_fit_is_refused(
    neox: LM, sae: InferenceSAE, tokens_NT: Tensor, name: str | None
) -> None:
    nowhere = replace(sae, metadata={})
    with pytest.raises(InputError, match="hook_name="), splice(neox.bridge, nowhere, hook_name=name):
        logits(neox, tokens_NT)


def test_a_latent_that_is_not_there_is_refused(neox: LM, sae: InferenceSAE) -> None:
    with (
        pytest.raises(InputError, match="latents=96: expected latents from 0 to 95"),
        steer(neox.bridge, sae, {96: 1.0}),
    ):
        pass


def test_without_tokens_special_positions_cannot_be_told(neox: LM, sae: InferenceSAE) -> None:
    x_NTD = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), pytest.raises(InputError, match="keep_special"), splice(neox.bridge, sae):
        neox.bridge.original_model(inputs_embeds=x_NTD)
    with torch.inference_mode(), splice(neox.bridge, sae, keep_special=False):
        neox.bridge.original_model(inputs_embeds=x_NTD)
