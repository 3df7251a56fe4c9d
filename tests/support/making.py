"""Small models, texts and configurations, made on the spot."""

import copy
import json
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
)

from masked_sae.config import RunConfig, typed_config
from masked_sae.masks.token import TokenMask

ROOT = Path(__file__).resolve().parents[2]
D_IN, LAYERS, CONTEXT_LIMIT = 32, 3, 64
HOOK = "blocks.1.hook_resid_post"
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,", "the", "of"]
BERT_WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
_SHAPE = {
    "hidden_size": D_IN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": CONTEXT_LIMIT,
}


def make_neox(folder: Path, seed: int = 0) -> Path:
    """A random GPT-NeoX checkpoint whose tokenizer gives one token a byte, and `<|endoftext|>`."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(vocab_size=260, bos_token_id=0, eos_token_id=0, initializer_range=0.2, **_SHAPE)
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return _with_bytes(folder)


def make_gpt2(folder: Path) -> Path:
    """A random GPT-2 checkpoint with the same tokenizer; its MLP reads what its attention adds, unlike GPT-NeoX's."""
    torch.manual_seed(0)
    shape = {"n_embd": D_IN, "n_layer": LAYERS, "n_head": 4, "n_positions": CONTEXT_LIMIT}
    config = GPT2Config(vocab_size=260, bos_token_id=0, eos_token_id=0, initializer_range=0.2, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return _with_bytes(folder)


def _with_bytes(folder: Path) -> Path:
    """With a tokenizer that gives one token a byte, and `<|endoftext|>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=257, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([], trainer)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(folder)
    return folder


def make_bert(folder: Path, with_head: bool = True) -> Path:
    """A random BERT checkpoint whose tokenizer gives one token a letter."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(BERT_WORDS), initializer_range=0.2, **_SHAPE)
    (BertForMaskedLM if with_head else BertModel)(config).save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(BERT_WORDS))
    BertTokenizer(vocab=str(vocabulary)).save_pretrained(folder)
    return folder


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Different texts of lower-case words, 40 to 400 characters each."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["the", "of", *("".join(rng.choices(letters, k=rng.randint(2, 7))) for _ in range(300))]
    return [" ".join(rng.choices(words, k=rng.randint(10, 70))) + f" {i}." for i in range(count)]


def own_modules() -> list[str]:
    """The sources of this project: Python that is the same wherever the tests run, whichever Python runs them."""
    return [path.read_text(encoding="utf-8") for path in sorted((ROOT / "src" / "masked_sae").rglob("*.py"))]


def write_jsonl(path: Path, texts: Sequence[str], column: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({column: text, "id": i}) + "\n" for i, text in enumerate(texts)))
    return path


def write_parquet(path: Path, texts: Sequence[str], column: str = "text") -> Path:
    pq.write_table(pa.table({"id": list(range(len(texts))), column: list(texts)}), path)
    return path


def compose(overrides: Sequence[str] = ()) -> RunConfig:
    """What `python -m src.train` makes of these overrides; a copy of its own."""
    return copy.deepcopy(_composed(tuple(overrides)))


@lru_cache(maxsize=256)
def _composed(overrides: tuple[str, ...]) -> RunConfig:
    import hydra

    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return typed_config(hydra.compose("train", list(overrides)))


def small_run(lm: Path, corpus: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run of a second on a small LM and text, with all it writes under `tmp_path`."""
    settings: dict[str, Any] = {
        "data": "text",
        "data.path": corpus,
        "data.store_dir": tmp_path / "store",
        "data.context_length": 32,
        "data.batch_size": 64,
        "data.train_tokens": 1024,
        "data.window_tokens": 256,
        "data.scale_tokens": 512,
        "data.validation_share": 0.2,
        "lm.name": lm,
        "lm.hook_name": HOOK,
        "lm.batch_size": 8,
        "sae.d_sae": 64,
        "sae.k": 4,
        "sae.aux_k": 16,
        "eval.tokens": 512,
        "output_dir": tmp_path / "runs",
        "logger.wandb.mode": "disabled",
        "trainer.progress": "false",
        "trainer.threads": 1,
        "trainer.device": "cpu",
    }
    return [f"{key}={value}" for key, value in settings.items()]


def token_mask(rate: float, **changes: Any) -> TokenMask:
    settings: dict[str, Any] = {
        "name": "token",
        "initial_rate": 0.0,
        "schedule": "constant",
        "last_share": 0.1,
        "span": 1.0,
        "replacement": (0,),
        "random_ids": np.arange(1, 257),
        "loss_positions": "all",
        "target": "masked",
        "seed": 0,
    }
    return TokenMask(rate=rate, **(settings | changes))


def distinct_tokens(count: int, seed: int = 0) -> NDArray[np.uint16]:
    """Random ordinary tokens of the small GPT-NeoX."""
    return np.random.default_rng(seed).integers(1, 257, size=count, dtype=np.uint16)
