"""Pretraining of the embedded LM: a small GPT-NeoX on the standard library's text.

Axes: N sequences, T positions, V vocabulary.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from masked_sae.text.documents import in_validation, stdlib_documents

END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"  # the names and ids of Pythia's tokenizer


@dataclass(frozen=True)
class PretrainConfig:
    output_dir: str
    seed: int
    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    context_length: int
    batch_size: int
    train_tokens: int
    lr: float
    weight_decay: float
    warmup_share: float
    validation_share: float
    bfloat16: bool


def pretrain(config: PretrainConfig) -> None:
    """Trains tokenizer and LM, and writes both with their held-out losses to `output_dir`."""
    documents = list(stdlib_documents())
    held_out = [d.text for d in documents if in_validation(d.key, config.validation_share)]
    training = [d.text for d in documents if not in_validation(d.key, config.validation_share)]
    tokenizer = train_tokenizer(training, config.vocab_size)
    train_ids, validation_ids = _encode(tokenizer, training), _encode(tokenizer, held_out)
    losses = ngram_losses(train_ids, validation_ids, config.vocab_size)
    print(f"{len(train_ids):,} training tokens, {len(validation_ids):,} held out; baselines {losses}", flush=True)

    started = time.monotonic()
    model = _train(config, train_ids, validation_ids)
    losses["lm"] = held_out_loss(model, validation_ids, config.context_length)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)  # float16 on disk: half the size, and exact again once read as float32
    losses["lm_stored"] = held_out_loss(model.float(), validation_ids, config.context_length)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=PADDING,
        model_max_length=config.context_length,
    )
    wrapped.save_pretrained(folder)
    report = {
        "held_out_loss_nats_per_token": losses,
        "train_tokens_distinct": len(train_ids),
        "held_out_tokens": len(validation_ids),
        "parameters": model.num_parameters(),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "config": asdict(config),
    }
    (folder / "pretraining.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report["held_out_loss_nats_per_token"]))


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer; adds no special tokens of itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.int64]:
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids = [np.array([*encoding.ids, end], dtype=np.int64) for encoding in tokenizer.encode_batch(list(texts))]
    return np.concatenate(ids)


def ngram_losses(train: NDArray[np.int64], held_out: NDArray[np.int64], vocab_size: int) -> dict[str, float]:
    """Held-out loss in nats of a unigram model (add-one) and of a bigram model.

    The bigram model interpolates with the unigram model, Witten-Bell style: the weight of a context's own counts is
    `count / (count + distinct successors)`.
    """
    counts_V = np.bincount(train, minlength=vocab_size) + 1.0
    unigram_V = counts_V / counts_V.sum()
    pairs, pair_counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    context_V = np.bincount(train[:-1], minlength=vocab_size)
    distinct_V = np.bincount(pairs // vocab_size, minlength=vocab_size)

    before, after = held_out[:-1], held_out[1:]
    at = np.searchsorted(pairs, before * vocab_size + after).clip(max=len(pairs) - 1)
    seen = np.where(pairs[at] == before * vocab_size + after, pair_counts[at], 0)
    bigram = (seen + distinct_V[before] * unigram_V[after]) / np.maximum(context_V[before] + distinct_V[before], 1)
    bigram = np.where(context_V[before] == 0, unigram_V[after], bigram)
    return {"unigram": float(-np.log(unigram_V[after]).mean()), "bigram": float(-np.log(bigram).mean())}


def _train(config: PretrainConfig, train: NDArray[np.int64], held_out: NDArray[np.int64]) -> GPTNeoXForCausalLM:
    torch.manual_seed(config.seed)  # Hugging Face initialises from the global generator
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            intermediate_size=4 * config.d_model,
            max_position_embeddings=2 * config.context_length,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)
    steps = config.train_tokens // (config.batch_size * config.context_length)
    warmup = max(1, round(config.warmup_share * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps))),
    )
    rng = np.random.default_rng(config.seed)
    progress = tqdm(range(steps), unit="step")
    for step in progress:
        tokens_NT = _random_sequences(train, config, rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            logits_NTV = model(tokens_NT).logits
        loss = F.cross_entropy(logits_NTV[:, :-1].flatten(0, 1).float(), tokens_NT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            held = held_out_loss(model, held_out[:20_000], config.context_length)
            progress.set_postfix(loss=f"{loss.item():.3f}", held_out=f"{held:.3f}")
    return model


def _random_sequences(ids: NDArray[np.int64], config: PretrainConfig, rng: np.random.Generator) -> torch.Tensor:
    """(N, T) tokens: `<|endoftext|>`, then a stretch from anywhere, the layout in which activations are read later."""
    length = config.context_length - 1
    starts = rng.integers(0, len(ids) - length, size=config.batch_size)
    content_NT = np.stack([ids[s : s + length] for s in starts])
    return torch.from_numpy(np.pad(content_NT, ((0, 0), (1, 0)), constant_values=0))


@torch.inference_mode()
def held_out_loss(model: GPTNeoXForCausalLM, ids: NDArray[np.int64], context_length: int) -> float:
    """Mean loss in nats per token over all whole sequences of the text, each read from a fresh context."""
    length = context_length - 1
    content_NT = ids[: len(ids) // length * length].reshape(-1, length)
    tokens_NT = torch.from_numpy(np.pad(content_NT, ((0, 0), (1, 0)), constant_values=0))
    model.eval()
    total = 0.0
    for batch_NT in tokens_NT.split(16):
        logits_NTV = model(batch_NT).logits[:, :-1].float()
        total += F.cross_entropy(logits_NTV.flatten(0, 1), batch_NT[:, 1:].flatten(), reduction="sum").item()
    model.train()
    return total / content_NT.size
