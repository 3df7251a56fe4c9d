"""What a forward costs, from a configuration alone: as the real LM's, and as the paper's LMs by their known sizes."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, GPTNeoXConfig, PretrainedConfig

from masked_sae.activations.lm import load_lm
from masked_sae.activations.lm_shape import LivePeak, count_forward, forward_of
from masked_sae.activations.settings import LMSettings
from masked_sae.errors import InputError
from support.making import D_IN, HOOK
from support.standins import gemma2_config, make_standin, pythia_config, pythia_tokenizer

CONTEXT = 1024
PYTHIA_160M = GPTNeoXConfig(
    vocab_size=50304,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    rotary_pct=0.25,
    max_position_embeddings=2048,
    architectures=["GPTNeoXForCausalLM"],
)
GEMMA_2_2B = Gemma2Config(
    vocab_size=256000,
    hidden_size=2304,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    intermediate_size=9216,
    sliding_window=4096,
    architectures=["Gemma2ForCausalLM"],
)
_PYTHIA_BLOCK = 24 * 768**2 + 4 * CONTEXT * 768  # for a token: weights of 12 d^2; scores and sums of T d each
_GEMMA_BLOCK = 2 * (2304 * (2048 + 2 * 1024) + 2048 * 2304 + 3 * 2304 * 9216) + 4 * CONTEXT * 2048


class _Reached(Exception):
    pass


def counted_of_transformers(config: PretrainedConfig, block: int) -> int:
    """Of a sequence, up to the end of a block, by the model itself, without the bridge."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")

    def stop(*_: object) -> None:
        raise _Reached

    model.base_model.layers[block].register_forward_hook(stop)
    seen_TT = torch.zeros((1, 1, CONTEXT, CONTEXT), device="meta")
    positions_T = torch.arange(CONTEXT, device="meta")[None]
    with torch.no_grad(), FlopCounterMode(display=False) as counter, pytest.raises(_Reached):
        model(torch.zeros_like(positions_T), attention_mask=seen_TT, position_ids=positions_T, use_cache=False)
    return counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "block", "d_in", "of_a_block", "weights"),
    [(PYTHIA_160M, 8, 768, _PYTHIA_BLOCK, 162e6), (GEMMA_2_2B, 12, 2304, _GEMMA_BLOCK, 2.614e9)],
    ids=["pythia", "gemma"],
)
def test_a_forward_of_the_papers_lms_ends_at_the_hook_point(
    config: PretrainedConfig, block: int, d_in: int, of_a_block: int, weights: float, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    pythia_tokenizer().save(tmp_path)
    hook_name = f"blocks.{block}.hook_resid_post"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    found = count_forward("an-lm", tmp_path, tokenizer, "float32", [hook_name], 1, CONTEXT)
    assert found.d_in == {hook_name: d_in}
    assert found.flops == pytest.approx(counted_of_transformers(config, block), rel=0.02)
    assert found.flops == pytest.approx((block + 1) * CONTEXT * of_a_block, rel=0.02)
    assert weights <= found.weights / 4 < 1.15 * weights  # the bridge may keep queries, keys and values apart, too
    assert found.peak > 4 * CONTEXT**2 * config.num_attention_heads * 2  # scores, and what softmax makes of them


def test_arithmetic_is_that_of_the_real_forward(neox_folder: Path) -> None:
    lm = load_lm(str(neox_folder), HOOK)
    tokens_NT = torch.zeros((3, 16), dtype=torch.long)
    for hook_name in ("blocks.0.hook_resid_pre", HOOK):
        with FlopCounterMode(display=False) as counter:
            lm.at(hook_name).activations(tokens_NT)
        found = forward_of(settings(neox_folder, hook_name), [hook_name], 3, 16)
        assert found.flops == counter.get_total_flops()
        assert found.d_in == {hook_name: lm.at(hook_name).d_in}


def test_several_hook_points_cost_one_forward_to_the_deepest(neox_folder: Path) -> None:
    deep = "blocks.2.hook_resid_post"
    both = forward_of(settings(neox_folder, HOOK), [HOOK, deep], 2, 16)
    assert both.d_in == {HOOK: D_IN, deep: D_IN}
    assert both.flops == forward_of(settings(neox_folder, deep), [deep], 2, 16).flops


@pytest.mark.slow
@pytest.mark.parametrize("config", [pythia_config(), gemma2_config()], ids=["pythia", "gemma"])
def test_a_narrower_lm_has_fewer_bytes(config: PretrainedConfig, tmp_path: Path) -> None:
    folder = make_standin(tmp_path, config)
    wide, narrow = (
        forward_of(settings(folder, HOOK, dtype), [HOOK], 2, 64) for dtype in ("float32", "bfloat16")
    )  # fmt: skip
    assert (narrow.flops, narrow.d_in) == (wide.flops, wide.d_in)
    assert narrow.weights == wide.weights / 2
    assert narrow.peak < wide.peak


def test_a_hook_point_that_is_not_there_is_refused_as_by_the_lm(neox_folder: Path) -> None:
    with pytest.raises(InputError, match=r"lm\.hook_name=blocks\.7\.hook_resid_post"):
        forward_of(settings(neox_folder, "blocks.7.hook_resid_post"), ["blocks.7.hook_resid_post"], 2, 16)


def test_the_peak_counts_what_is_alive_at_one_time_and_no_views() -> None:
    given = torch.zeros(1000)
    with LivePeak() as live:
        first = given + 1  # 4,000 bytes
        view = first.view(10, 100).T
        del first, view
        second = (given * 2).double()  # 4,000 and 8,000 at one time
        del second
        given.add_(1)
    assert live.peak == 12_000


def settings(folder: Path, hook_name: str, dtype: str = "float32") -> LMSettings:
    return LMSettings(name=str(folder), hook_name=hook_name, dtype=dtype, batch_size=2)
