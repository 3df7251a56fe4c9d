"""What follows a change at the hook point is, to the bit, what a whole forward with that change gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.suffix import clean_pass
from support.counting import calls_of
from support.making import HOOK, LAYERS, make_gpt2

HOOKS = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_out", "hook_attn_out", "hook_mlp_out"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return load_lm(str(make_gpt2(tmp_path_factory.mktemp("gpt2"))), HOOK)


@pytest.fixture(params=["neox", "bert", "gpt2"])
def lm(request: pytest.FixtureRequest) -> LM:
    return request.getfixturevalue(request.param)


@pytest.fixture(name="tokens_NT")
def a_few_tokens() -> Tensor:
    return torch.randint(5, 55, (3, 20), generator=torch.Generator().manual_seed(0))


def shifted(x_NTD: Tensor) -> Tensor:
    """Another activation, but at the first position."""
    return torch.cat([x_NTD[:, :1], 0.7 * x_NTD[:, 1:].roll(1, dims=2)], dim=1)


def blocks_run(lm: LM, run: Any) -> list[int]:
    counted = [calls_of(block.original_component) for block in lm.bridge.blocks]
    calls = [one.__enter__() for one in counted]
    try:
        run()
        return [len(one) for one in calls]
    finally:
        for one in counted:
            one.__exit__(None, None, None)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_logits_are_those_of_a_whole_forward(lm: LM, layer: int, hook: str, tokens_NT: Tensor) -> None:
    name = f"blocks.{layer}.{hook}"
    if name not in lm.bridge.hook_dict:
        pytest.skip("parallel blocks have no such point")
    there = lm.at(name)
    passed, logits_NTV = clean_pass(there, tokens_NT)
    assert torch.equal(logits_NTV, there.logits(tokens_NT))
    assert torch.equal(passed.x_NTD, there.activations(tokens_NT))
    changed_NTV = there.logits(tokens_NT, shifted)
    for _ in range(2):  # and nothing is used up
        assert torch.equal(passed.logits(shifted), changed_NTV)
    assert torch.equal(passed.logits(lambda x_NTD: x_NTD), logits_NTV)
    assert not torch.equal(changed_NTV, logits_NTV)
    assert torch.equal(there.logits(tokens_NT), logits_NTV)  # whole forwards are as they were
    skipped = layer + (hook in ("hook_resid_post", "hook_out"))
    assert there.resumes is (skipped > 0)
    assert blocks_run(lm, lambda: passed.logits(shifted)) == [0] * skipped + [1] * (LAYERS - skipped)


@pytest.mark.parametrize("name", ["embed.hook_out", "ln_final.hook_out"])
def test_elsewhere_the_whole_lm_runs(neox: LM, name: str, tokens_NT: Tensor) -> None:
    there = neox.at(name)
    passed, _ = clean_pass(there, tokens_NT)
    assert torch.equal(passed.logits(shifted), there.logits(tokens_NT, shifted))
    assert blocks_run(neox, lambda: passed.logits(shifted)) == [1] * LAYERS


def test_at_half_precision_too(neox_folder: Path, tokens_NT: Tensor) -> None:
    low = load_lm(str(neox_folder), HOOK, dtype="bfloat16")
    passed, _ = clean_pass(low, tokens_NT)
    assert low.resumes and torch.equal(passed.logits(shifted), low.logits(tokens_NT, shifted))


def test_an_lm_whose_blocks_hand_on_more_runs_as_a_whole(neox_folder: Path, tokens_NT: Tensor) -> None:
    """The last block adds what the first one saw, past the residual stream."""
    lm = load_lm(str(neox_folder), HOOK)
    seen: list[Tensor] = []
    lm.bridge.blocks[0].original_component.register_forward_hook(lambda module, args, output: seen.append(output))
    lm.bridge.blocks[2].original_component.register_forward_hook(lambda module, args, output: output + seen.pop())
    passed, _ = clean_pass(lm, tokens_NT)
    assert lm.resumes is False
    assert torch.equal(passed.logits(shifted), lm.logits(tokens_NT, shifted))


def test_what_fails_leaves_the_lm_as_it_was(neox: LM, tokens_NT: Tensor) -> None:
    passed, logits_NTV = clean_pass(neox, tokens_NT)

    def fails(x_NTD: Tensor) -> Tensor:
        raise ValueError("of the edit")

    with pytest.raises(ValueError, match="of the edit"):
        passed.logits(fails)
    assert torch.equal(neox.logits(tokens_NT), logits_NTV)
    assert all("forward" not in vars(block) for block in neox.bridge.blocks)
