"""Small models with random weights of the architectures, hook points and tokenizer forms of LMs that are not at hand,
and the hub's cache as its client lays it out on a machine with a network.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zstandard
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from support.hub import commit, write_cache
from support.making import make_texts

PYTHIA, GEMMA, PILE = "EleutherAI/pythia-160m-deduped", "google/gemma-2-2b", "monology/pile-uncopyrighted"
_PIECES = 400  # of a vocabulary, beside special tokens
_SMALL = {
    "vocab_size": 704,  # more rows than the tokenizer has tokens, as large LMs have
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,  # attention that differs from a mean
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6}


@dataclass(frozen=True)
class TokenizerForm:
    """Files of a tokenizer as a checkpoint has them: `settings` is what tokenizer_config.json says."""

    tokenizer: Tokenizer
    settings: dict[str, Any]

    def save(self, folder: Path) -> None:
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(self.settings))


def pythia_tokenizer() -> TokenizerForm:
    """Byte-level BPE; one special token with three names, put around nothing; runs of spaces that are added tokens."""
    end = "<|endoftext|>"
    tokenizer = _byte_level([end, "<|padding|>"])
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in range(2, 8)])
    names = {"bos_token": end, "eos_token": end, "unk_token": end, "add_prefix_space": False}
    return TokenizerForm(tokenizer, {"tokenizer_class": "GPTNeoXTokenizer", **names})


def gemma_tokenizer() -> TokenizerForm:
    """SentencePiece's BPE: spaces as letters, bytes for what no piece spells, `<bos>` before each text."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # while it learns: no piece spans words
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = trainers.BpeTrainer(
        vocab_size=_PIECES + len(bytes_), special_tokens=[*special, *bytes_], show_progress=False, max_token_length=12
    )
    tokenizer.train_from_iterator(prose(300), trained)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    return TokenizerForm(tokenizer, {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, **names})


def llama_tokenizer() -> TokenizerForm:
    """Llama 3's: byte-level BPE, with a token before each text and another to end one."""
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    tokenizer = _byte_level([begin, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, 0)]
    )
    return TokenizerForm(
        tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": end}
    )


def qwen_tokenizer() -> TokenizerForm:
    """Byte-level BPE without a token to begin a text; the one that ends it pads, too."""
    end = "<|endoftext|>"
    tokenizer = _byte_level([end, "<|im_start|>", "<|im_end|>"])
    names = {"bos_token": None, "eos_token": end, "pad_token": end, "unk_token": None}
    return TokenizerForm(tokenizer, {"tokenizer_class": "Qwen2Tokenizer", **names})


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trained = trainers.BpeTrainer(
        vocab_size=_PIECES,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(prose(300), trained)
    return tokenizer


def prose(count: int, seed: int = 0) -> list[str]:
    """Texts of made-up words, some with a capital letter, and of numbers."""
    rng = random.Random(seed)

    def changed(word: str) -> str:
        kind = rng.random()
        return str(rng.randrange(2000)) if kind < 0.1 else word.capitalize() if kind < 0.3 else word

    return [" ".join(changed(word) for word in text.split(" ")) for text in make_texts(count, seed)]


def gemma2_config(**changes: Any) -> Gemma2Config:
    """Soft-caps and a window that bite at this size."""
    own = {"sliding_window": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    layers = {"num_hidden_layers": 4, "query_pre_attn_scalar": 8, "tie_word_embeddings": True}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    return Gemma2Config(**{**_SMALL, **_GROUPED, **own, **layers, **tokens, **changes})


def llama_config(**changes: Any) -> LlamaConfig:
    return LlamaConfig(
        **{**_SMALL, **_GROUPED, "num_hidden_layers": 4, "bos_token_id": 0, "eos_token_id": 1, **changes}
    )


def qwen2_config(**changes: Any) -> Qwen2Config:
    return Qwen2Config(**{**_SMALL, "num_key_value_heads": 2, "num_hidden_layers": 4, "eos_token_id": 0, **changes})


def qwen3_config(**changes: Any) -> Qwen3Config:
    return Qwen3Config(**{**_SMALL, **_GROUPED, "num_hidden_layers": 4, "eos_token_id": 0, **changes})


def pythia_config(**changes: Any) -> GPTNeoXConfig:
    own = {"rotary_pct": 0.25, "use_parallel_residual": True, "hidden_act": "gelu", "num_hidden_layers": 4}
    return GPTNeoXConfig(**{**_SMALL, **own, "bos_token_id": 0, "eos_token_id": 0, **changes})


_KINDS: dict[type[PretrainedConfig], tuple[Any, Any]] = {
    Gemma2Config: (Gemma2ForCausalLM, gemma_tokenizer),
    LlamaConfig: (LlamaForCausalLM, llama_tokenizer),
    Qwen2Config: (Qwen2ForCausalLM, qwen_tokenizer),
    Qwen3Config: (Qwen3ForCausalLM, qwen_tokenizer),
    GPTNeoXConfig: (GPTNeoXForCausalLM, pythia_tokenizer),
}


def make_standin(folder: Path, config: PretrainedConfig, dtype: str = "float32", shard: str = "1GB") -> Path:
    """A checkpoint of random weights.

    Args:
        shard: what a file of weights has at most.
    """
    torch.manual_seed(0)
    model_class, tokenizer = _KINDS[type(config)]
    model = model_class(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # 1 or 0 when made: not what training leaves
                weight.add_(torch.randn_like(weight), alpha=0.2)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    tokenizer().save(folder)
    return folder


def write_hub_cache(home: Path, aside: Path) -> None:
    """Has `home`, for HF_HOME, hold what `hf download` would: the experiments' LMs, and the first files of the Pile.

    Args:
        aside: an empty folder to make them in.
    """
    cache = home / "hub"
    pythia = make_standin(aside / "pythia", pythia_config(num_hidden_layers=10), dtype="float16")
    write_cache(cache, commit(1), pythia, name=PYTHIA)
    gemma = make_standin(aside / "gemma", gemma2_config(num_hidden_layers=14, sliding_window=256), shard="100KB")
    write_cache(cache, commit(2), gemma, name=GEMMA)
    write_cache(cache, commit(3), _write_pile(aside / "pile"), name=PILE, kind="datasets")


def _write_pile(folder: Path) -> Path:
    """Rows and names of files as the Pile has them."""
    names = ["train/00.jsonl.zst", "train/01.jsonl.zst", "test.jsonl.zst", "val.jsonl.zst"]
    for number, name in enumerate(names):
        rows = [{"text": text, "meta": {"pile_set_name": "Pile-CC"}} for text in prose(600, seed=1 + number)]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(zstandard.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    (folder / "README.md").write_text("---\nlicense: other\n---\n# Pile Uncopyrighted\n")
    return folder
