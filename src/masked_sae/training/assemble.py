"""From a run to what it is made of: everything that can be refused is refused here, before any file of the run's."""

from dataclasses import dataclass

import torch

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.plan import Plan
from masked_sae.activations.scale import ActivationStatistics, measure_statistics
from masked_sae.activations.sequences import Sequences, ShuffledSequences, make_sequences
from masked_sae.activations.stream import ActivationStream
from masked_sae.config import MeasuringConfig
from masked_sae.errors import InputError
from masked_sae.masks.run_masks import Masks, kept_share, make_masks
from masked_sae.randomness import torch_generator
from masked_sae.runs.run import Inputs, Run, find_inputs_of
from masked_sae.text.corpus import token_store
from masked_sae.text.tokenizer import special_tokens
from masked_sae.training.memory import refuse_too_large
from masked_sae.training.module import SAEModule
from masked_sae.training.schedule import Schedule


@dataclass(frozen=True)
class LMAndText:
    """What an SAE is trained and measured on.

    Attributes:
        training, held_out: sequences.
        special: share of the training tokens, that no SAE is trained on.
    """

    lm: LM
    training: Sequences
    held_out: Sequences
    special: float


@dataclass(frozen=True)
class TrainingParts:
    """What a run trains with, but for the SAE."""

    lm: LM
    held_out: Sequences
    sequences: ShuffledSequences
    plan: Plan
    masks: Masks


def load_lm_and_text(config: MeasuringConfig, inputs: Inputs, device: torch.device) -> LMAndText:
    """Builds the token store where there is none, and loads the LM.

    Raises:
        InputError: the text is too short, or the LM or its hook point is not there.
    """
    tokenizer = inputs.tokenizer
    lm = load_lm(
        config.lm.name, config.lm.hook_name, config.lm.dtype, str(device), tokenizer, revision=config.lm.revision
    )
    special = special_tokens(tokenizer)
    length = config.data.context_length
    if lm.context_limit is not None and length > lm.context_limit:
        raise InputError("data.context_length", length, f"at most {lm.context_limit}, the LM's own limit")
    store = token_store(
        inputs.corpus,
        config.data,
        tokenizer,
        special.separator,
        progress=config.trainer.progress,
        memory=config.digest_memory,
    )
    training = make_sequences(store.split("train"), length, special)
    if store.meta.validation.tokens < training.content_length:
        share, tokens = config.data.validation_share, store.meta.validation.tokens
        raise InputError("data.validation_share", share, f"more: held out are {tokens} tokens, less than one sequence")
    held_out = make_sequences(store.split("validation"), length, special)
    return LMAndText(lm, training, held_out, store.meta.train.special / store.meta.train.tokens)


def load_parts(run: Run, device: torch.device) -> TrainingParts:
    """Reads LM and text, and plans the stream.

    Raises:
        InputError: see `find_inputs_of` and `load_lm_and_text`; or the run is too long for its text.
    """
    config, data = run.config, run.config.data
    inputs = find_inputs_of(run)
    found = load_lm_and_text(config, inputs, device)
    refuse_too_large(config, found.lm.d_in, device)
    share = kept_share(config.mask) * (1 - found.special)
    plan = Plan.make(data.batch_size, data.window_tokens, data.train_tokens, found.training.content_length, share)
    plan.check_epochs(len(found.training), data.max_epochs)
    masks = make_masks(config.mask, inputs.tokenizer, config.seed, config.data_seed)
    return TrainingParts(found.lm, found.held_out, ShuffledSequences(found.training, config.data_seed), plan, masks)


def find_statistics(run: Run, parts: TrainingParts) -> ActivationStatistics:
    data, lm = run.config.data, run.config.lm
    return measure_statistics(parts.lm, parts.sequences, data.scale_tokens, lm.batch_size)


def make_stream(run: Run, parts: TrainingParts, scale: float) -> ActivationStream:
    lm_batch_size, seed = run.config.lm.batch_size, run.config.data_seed
    return ActivationStream(
        parts.lm, parts.sequences, parts.plan, parts.masks, scale=scale, lm_batch_size=lm_batch_size, seed=seed
    )


def make_module(run: Run, parts: TrainingParts, statistics: ActivationStatistics) -> SAEModule:
    """The SAE with its initial weights, ready to be trained; its decoder's bias begins at the activations' mean."""
    config = run.config
    sae = config.sae.make(parts.lm.d_in, torch_generator(config.seed, "initial weights"))
    with torch.no_grad():
        sae.b_dec_D.copy_(statistics.mean_D * statistics.scale)
    schedule = Schedule(config.optim.lr, config.optim.warmup_steps, config.optim.decay_fraction, parts.plan.steps)
    module = SAEModule(sae, schedule, parts.masks, config.sae.penalty_warmup_steps)
    return module.to(parts.lm.device)


def find_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        InputError: CUDA was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("trainer.device", name, "cpu or auto: this machine has no CUDA device")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
