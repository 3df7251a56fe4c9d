"""From a configuration to the parts of a run: everything that can be refused is refused here, before any file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masked_sae.activations.lm import LM, load_lm, load_tokenizer, replacement_id, special_tokens
from masked_sae.activations.stream import ActivationStream, Layout, Plan, make_layout
from masked_sae.config import ARCHITECTURES, RunConfig, SAEConfig, check, token_rate_range
from masked_sae.errors import InputError
from masked_sae.evals.texts.config import check_tasks
from masked_sae.masks.masking import TokenMask
from masked_sae.randomness import torch_generator
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.identity import run_id
from masked_sae.saes import SAE, BatchTopKSAE, GatedSAE, JumpReLUSAE, MatryoshkaSAE, ReLUSAE, TopKSAE, group_sizes
from masked_sae.text.corpus import Corpus, find_corpus, token_store, tokens_needed


@dataclass(frozen=True)
class Identified:
    """A run that has a name and a place, and of whose text and tokenizer we know."""

    config: RunConfig
    folder: RunFolder
    corpus: Corpus
    tokenizer: Any


@dataclass(frozen=True)
class Read:
    """What a run reads: an LM, and text in training and held-out sequences."""

    lm: LM
    training: Layout
    held_out: Layout
    separators: float  # share of the training tokens


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    lm: LM
    stream: ActivationStream
    held_out: Layout


def identify(config: RunConfig, swept: Mapping[str, str]) -> Identified:
    """Checks what the configuration, the tokenizer and the files tell, and names the run.

    Raises:
        InputError: see `config.check`; or the tokenizer lacks the replacement token, or the text is not there.
    """
    check(config)
    check_tasks(config.eval.tasks)
    tokenizer = load_tokenizer(config.lm.name)
    replacement_id(tokenizer, config.mask.token.replacement)
    corpus = find_corpus(config.data, tokens_needed(config.data, kept_share(config)))
    folder = Path(config.output_dir) / config.name / run_id(config, swept, corpus.content)
    return Identified(config, RunFolder(folder), corpus, tokenizer)


def read(run: Identified, device: torch.device) -> Read:
    """Builds the token store where there is none, and loads the LM.

    Raises:
        InputError: the text is too short, or the LM or its hook point is not there.
    """
    config, tokenizer = run.config, run.tokenizer
    lm = load_lm(config.lm.name, config.lm.hook_name, config.lm.dtype, str(device), tokenizer)
    special = special_tokens(tokenizer)
    length = config.data.context_length
    if lm.context_limit is not None and length > lm.context_limit:
        raise InputError("data.context_length", length, f"at most {lm.context_limit}, the LM's own limit")
    store = token_store(run.corpus, config.data, tokenizer, special.separator, config.trainer.progress)
    training = make_layout(store.split("train"), length, special)
    if store.meta.validation.tokens < training.content_length:
        share, tokens = config.data.validation_share, store.meta.validation.tokens
        raise InputError("data.validation_share", share, f"more: held out are {tokens} tokens, less than one sequence")
    held_out = make_layout(store.split("validation"), length, special)
    return Read(lm, training, held_out, store.meta.train.separators / store.meta.train.tokens)


def assemble(run: Identified, device: torch.device) -> Parts:
    """Reads LM and text, and lays out the stream.

    Raises:
        InputError: see `read`; or the run is too long for its text.
    """
    config, data = run.config, run.config.data
    found = read(run, device)
    share = kept_share(config) * (1 - found.separators)
    plan = Plan.make(data.batch_size, data.window_tokens, data.train_tokens, found.training.content_length, share)
    plan.check_epochs(len(found.training), data.max_epochs)
    stream = ActivationStream(
        found.lm,
        found.training,
        plan,
        make_token_mask(config, run.tokenizer),
        loss_positions=config.mask.token.loss_positions,
        clean_target=config.mask.token.target == "clean",
        lm_batch_size=config.lm.batch_size,
        seed=config.seed,
    )
    return Parts(found.lm, stream, found.held_out)


def kept_share(config: RunConfig) -> float:
    """The least expected share of content positions that the loss counts."""
    lowest, highest = token_rate_range(config.mask.token)
    return {"all": 1.0, "unmasked": 1 - highest, "masked": lowest}[config.mask.token.loss_positions]


def make_token_mask(config: RunConfig, tokenizer: Any) -> TokenMask:
    token = config.mask.token
    return TokenMask(
        rate=token.rate,
        initial_rate=token.initial_rate,
        schedule=token.schedule,
        span=token.span,
        replacement=replacement_id(tokenizer, token.replacement),
        random_ids=np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids),
        seed=config.seed,
    )


def make_sae(settings: SAEConfig, d_in: int, seed: int) -> SAE:
    """An SAE with its initial weights."""
    chosen = asdict(settings)
    named = ("dead_after_tokens", "reference", *ARCHITECTURES[settings.architecture])
    options: dict[str, Any] = {name: chosen[name] for name in named if name not in _NOT_THE_SAES}
    if settings.architecture == "matryoshka":
        options["groups"] = group_sizes(settings.d_sae, settings.group_fractions)
    if settings.architecture == "topk":
        del options["threshold_decay"]  # it has no threshold
    return _CLASSES[settings.architecture](
        d_in,
        settings.d_sae,
        **options,
        compute_dtype=getattr(torch, settings.compute_dtype),
        generator=torch_generator(seed, "initial weights"),
    )


_CLASSES: dict[str, type[SAE]] = {
    "topk": TopKSAE,
    "batch_topk": BatchTopKSAE,
    "matryoshka": MatryoshkaSAE,
    "relu": ReLUSAE,
    "jumprelu": JumpReLUSAE,
    "gated": GatedSAE,
}
_NOT_THE_SAES = ("group_fractions", "sparsity_warmup_steps")


def find_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        InputError: CUDA was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("trainer.device", name, "cpu or auto: this machine has no CUDA device")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
