"""Activations of the architectures that are read most, against the library that the checkpoints are written for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig

from masked_sae.activations.lm import LM, load_lm
from masked_sae.text.tokenizer import MEAN_TOKEN
from support.making import make_bert
from support.standins import gemma2_config, llama_config, make_standin, pythia_config, qwen2_config, qwen3_config

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma2": gemma2_config,
    "llama": llama_config,
    "qwen2": qwen2_config,
    "qwen3": qwen3_config,
    "pythia": pythia_config,
}
KINDS = [*CONFIGS, "bert"]
LAYER = 2  # has a sliding window in Gemma-2, as layer 12 of the 2B has; the last hidden state has the final norm in it
HOOK = f"blocks.{LAYER}.hook_resid_post"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("architectures")
    made = {kind: make_standin(at / kind, make()) for kind, make in CONFIGS.items()}
    return made | {"bert": make_bert(at / "bert")}


@pytest.fixture(scope="module")
def lms(folders: dict[str, Path]) -> dict[str, LM]:
    return {kind: load_lm(str(folder), "blocks.1.hook_resid_post") for kind, folder in folders.items()}


@pytest.fixture(name="tokens_NT", scope="module")
def a_few_tokens() -> Tensor:
    return torch.randint(5, 55, (3, 20), generator=torch.Generator().manual_seed(0))


def hidden(folder: Path, tokens_NT: Tensor, dtype: str = "float32", **changes: Any) -> list[Tensor]:
    """Hidden states by the library itself: after the embedding, and after each layer."""
    model = AutoModel.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="eager", **changes
    ).eval()
    with torch.inference_mode():
        return [x_NTD.float() for x_NTD in model(tokens_NT, output_hidden_states=True).hidden_states]


def error(x_NTD: Tensor, expected_NTD: Tensor) -> float:
    return float((x_NTD - expected_NTD).norm() / expected_NTD.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_every_layers_activations_are_the_librarys_hidden_states(
    kind: str, folders: dict[str, Path], lms: dict[str, LM], tokens_NT: Tensor
) -> None:
    expected = hidden(folders[kind], tokens_NT)
    for layer in range(len(expected) - 2):
        for side in ("pre", "post"):
            x_NTD = lms[kind].at(f"blocks.{layer}.hook_resid_{side}").activations(tokens_NT)
            torch.testing.assert_close(x_NTD, expected[layer + (side == "post")], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_differs_from_the_librarys_by_its_rounding_alone(
    kind: str, folders: dict[str, Path], lms: dict[str, LM], tokens_NT: Tensor
) -> None:
    """No further from the library in bfloat16 than that is from itself in float32."""
    x_NTD = load_lm(str(folders[kind]), HOOK if kind != "bert" else "blocks.1.hook_resid_post", "bfloat16").activations(
        tokens_NT
    )
    at = LAYER + 1 if kind != "bert" else 2
    low_NTD, high_NTD = (hidden(folders[kind], tokens_NT, dtype)[at] for dtype in ("bfloat16", "float32"))
    rounding = error(low_NTD, high_NTD)
    assert 1e-3 < rounding < 0.03
    assert error(x_NTD, low_NTD) < rounding
    assert error(x_NTD, high_NTD) < 1.5 * rounding


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_logits_are_the_librarys(kind: str, folders: dict[str, Path], lms: dict[str, LM], tokens_NT: Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[kind], attn_implementation="eager").eval()
    with torch.inference_mode():
        expected_NTV = model(tokens_NT).logits
    torch.testing.assert_close(lms[kind].logits(tokens_NT), expected_NTV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes", [{"attn_logit_softcapping": None}, {"sliding_window": 4096}, {"query_pre_attn_scalar": 256}]
)
def test_what_gemma_2_has_of_its_own_bites_at_this_size(
    changes: dict[str, Any], folders: dict[str, Path], lms: dict[str, LM], tokens_NT: Tensor
) -> None:
    """So that the tests above hold it."""
    other_NTD = hidden(folders["gemma2"], tokens_NT, **changes)[LAYER + 1]
    assert error(other_NTD, lms["gemma2"].at(HOOK).activations(tokens_NT)) > 0.01


def test_gemma_2_caps_its_logits(lms: dict[str, LM], tokens_NT: Tensor) -> None:
    logits_NTV = lms["gemma2"].logits(tokens_NT)
    assert 2.5 < logits_NTV.abs().max() <= 3


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_a_mean_token_is_the_mean_of_the_embeddings_as_the_lm_scales_them(kind: str, lms: dict[str, LM]) -> None:
    lm = lms[kind].at("blocks.0.hook_resid_pre")
    ordinary = sorted(set(range(lm.vocab_size)) - set(lm.tokenizer.all_special_ids))
    expected_D = lm.activations(torch.tensor([ordinary]))[0].mean(0)
    x_NTD = lm.activations(torch.tensor([[ordinary[0], MEAN_TOKEN, ordinary[1]]]))
    torch.testing.assert_close(x_NTD[0, 1], expected_D, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(x_NTD[0, 0], expected_D, atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "prefix", "suffix", "separator"),
    [
        ("gemma2", ["<bos>"], [], "<eos>"),
        ("llama", ["<|begin_of_text|>"], [], "<|end_of_text|>"),
        ("qwen3", [], [], "<|endoftext|>"),
        ("pythia", ["<|endoftext|>"], [], "<|endoftext|>"),
        ("bert", ["[CLS]"], ["[SEP]"], "[SEP]"),
    ],
)
def test_sequences_are_framed_as_each_tokenizer_frames_a_text(
    kind: str, prefix: list[str], suffix: list[str], separator: str, lms: dict[str, LM]
) -> None:
    special, named = lms[kind].special, lms[kind].tokenizer.convert_ids_to_tokens
    assert (named(list(special.prefix)), named(list(special.suffix))) == (prefix, suffix)
    assert named(special.separator) == separator
