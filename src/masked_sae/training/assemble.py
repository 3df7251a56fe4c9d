"""From a run to what it is made of: everything that can be refused is refused here, before any file of the run's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.lm_device import find_lm_device, runs_ahead
from masked_sae.activations.plan import Plan
from masked_sae.activations.scale import ActivationStatistics
from masked_sae.activations.sequences import Sequences, ShuffledSequences, make_sequences
from masked_sae.activations.stream import ActivationStream
from masked_sae.activations.window_cache import WindowCache, stream_cache
from masked_sae.activations.windows import Point, Windows
from masked_sae.config import MeasuringConfig, OptimSettings, RunConfig
from masked_sae.errors import InputError
from masked_sae.masks.run_masks import Masks, kept_share, make_masks
from masked_sae.randomness import torch_generator
from masked_sae.ranks import ALONE, Ranks
from masked_sae.runs.run import Inputs, Run, find_inputs_of
from masked_sae.saes.settings import SAESettings
from masked_sae.text.corpus import token_store
from masked_sae.text.tokenizer import special_tokens
from masked_sae.training.compiled import compiler_of
from masked_sae.training.memory import refuse_too_large
from masked_sae.training.optimizers import refuse_unusable
from masked_sae.training.sae_training import SAETraining
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
    """What a run trains with, but for the SAE. Runs of a pack share LM and text.

    Attributes:
        lm: at the run's hook point.
        device: where the SAE is, and what it reads.
    """

    lm: LM
    device: torch.device
    held_out: Sequences
    sequences: ShuffledSequences
    plan: Plan
    masks: Masks


def load_lm_and_text(config: MeasuringConfig, inputs: Inputs, device: torch.device) -> LMAndText:
    """Builds the token store where there is none, and loads the LM.

    Args:
        device: where the SAEs are; the LM may have another.

    Raises:
        InputError: the text is too short, or the LM or its hook point is not there.
    """
    tokenizer = inputs.tokenizer
    lm = load_lm(
        config.lm.name,
        config.lm.hook_name,
        config.lm.dtype,
        str(find_lm_device(config.lm, device)),
        tokenizer,
        revision=config.lm.revision,
        gives_on=device,
        device_map=config.lm.device_map,
        micro_batch_size=config.lm.micro_batch_size,
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
        InputError: see `find_inputs_of`, `load_lm_and_text` and `make_parts`.
    """
    inputs = find_inputs_of(run)
    return make_parts(run, load_lm_and_text(run.config, inputs, device), inputs)


def make_parts(run: Run, found: LMAndText, inputs: Inputs) -> TrainingParts:
    """What one run has of LM and text.

    Raises:
        InputError: there is no such hook point, or the run is too large for the machine or too long for its text.
    """
    config = run.config
    lm, device = found.lm.at(config.lm.hook_name), found.lm.gives_on
    refuse_too_large(config, lm.d_in, device)
    refuse_unusable(config.optim.name, device)
    plan = make_plan(config, found)
    masks = make_masks(config.mask, inputs.tokenizer, config.seed, config.data_seed)
    return TrainingParts(lm, device, found.held_out, ShuffledSequences(found.training, config.data_seed), plan, masks)


def make_plan(config: RunConfig, found: LMAndText) -> Plan:
    """How the text falls into a run's batches.

    Raises:
        InputError: the text is too short.
    """
    data = config.data
    share = kept_share(config.mask) * (1 - found.special)
    plan = Plan.make(data.batch_size, data.window_tokens, data.train_tokens, found.training.content_length, share)
    plan.check_epochs(len(found.training), data.max_epochs)
    return plan


def find_caches(runs: Sequence[Run], parts: TrainingParts) -> dict[str, WindowCache]:
    """Windows on disk, by the hook points of these runs; none where they are to do without."""
    found: dict[str, WindowCache] = {}
    for run in runs:
        if run.shares is not None and run.config.lm.hook_name not in found:
            lm, data = run.config.lm, run.config.data
            cache = stream_cache(
                data,
                lm.dtype,
                run.shares.lm_output,
                parts.lm.device,
                windows=parts.plan.windows,
                pieces_of=lm.at_once(lm.batch_size) if lm.at_once(lm.batch_size) < lm.batch_size else None,
                ranks=run.config.trainer.ranks,
            )
            found |= {} if cache is None else {lm.hook_name: cache}
    return found


def make_stream(
    run: Run,
    parts: TrainingParts,
    points: Sequence[Point],
    caches: Mapping[str, WindowCache] | None = None,
    ranks: Ranks = ALONE,
) -> ActivationStream:
    """Of a run, or of a pack by its longest run.

    Args:
        points: none twice.
    """
    config = run.config
    dtype = None if config.data.cache_dtype is None else getattr(torch, config.data.cache_dtype)
    windows = Windows(
        parts.lm,
        parts.sequences,
        parts.plan,
        parts.masks.on_text,
        points,
        lm_batch_size=config.lm.batch_size,
        seed=config.data_seed,
        dtype=dtype,
        caches=caches,
        ranks=ranks,
    )
    return ActivationStream(windows, ahead=runs_ahead(config.data.ahead, config.lm, parts.device))


def make_training(run: Run, parts: TrainingParts, statistics: ActivationStatistics) -> SAETraining:
    """The run's SAE with its initial weights, ready to be trained; on the CPU where processes are to share its latents,
    until each has its part.
    """
    config = run.config
    return begin_training(
        config.sae,
        config.optim,
        statistics,
        parts.masks,
        steps=parts.plan.steps,
        seed=config.seed,
        device=torch.device("cpu") if config.trainer.shard_latents else parts.device,
        compiler=compiler_of(config.trainer),
    )


def begin_training(
    sae: SAESettings,
    optim: OptimSettings,
    statistics: ActivationStatistics,
    masks: Masks,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    compiler: str | None = None,
) -> SAETraining:
    """An SAE with its initial weights, ready to be trained; its decoder's bias begins at the activations' mean.

    Args:
        compiler: as of `SAETraining`.
    """
    made = sae.make(len(statistics.mean_D), torch_generator(seed, "initial weights"))
    with torch.no_grad():
        made.b_dec_D.copy_(statistics.mean_D * statistics.scale)
    return SAETraining(
        made.to(device),
        Schedule(optim.lr, optim.warmup_steps, optim.decay_fraction, steps),
        masks,
        penalty_warmup_steps=sae.penalty_warmup_steps,
        gradient_clip=optim.gradient_clip,
        seed=seed,
        optimizer=optim.name,
        compiler=compiler,
    )


def find_device(name: str, number: int | None = None) -> torch.device:
    """`auto` is CUDA where there is one.

    Args:
        number: which of several devices.

    Raises:
        InputError: CUDA was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("trainer.device", name, "cpu or auto: this machine has no CUDA device")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if number is None else torch.device("cuda", number)
