"""What can be chosen, typed: `conf/` holds the values, these dataclasses the names and types."""

import math
from dataclasses import dataclass, field
from typing import Any

from masked_sae.errors import InputError

# Architectures, and the settings of each that not all have.
_OF_TOPK = ("k", "aux_k", "aux_coefficient", "threshold_decay")
_OF_PENALTY = ("sparsity_coefficient", "sparsity_warmup_steps")
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "topk": _OF_TOPK,
    "batch_topk": _OF_TOPK,
    "matryoshka": (*_OF_TOPK, "group_fractions"),
    "relu": _OF_PENALTY,
    "jumprelu": (*_OF_PENALTY, "threshold_init", "bandwidth"),
    "gated": _OF_PENALTY,
}
_SOME_HAVE = list(dict.fromkeys(name for own in ARCHITECTURES.values() for name in own if name != "group_fractions"))
DTYPES = ("float32", "bfloat16")
LOSS_POSITIONS = ("all", "unmasked", "masked")
TARGETS = ("masked", "clean")
SCHEDULES = ("constant", "linear", "cosine")
SOURCES = ("stdlib", "text", "hub", "synthetic")
CALIBRATIONS = ("clean", "none")
FAMILIES = ("core", "absorption", "sparse_probing", "tpp", "scr", "ood", "ground_truth")
CONCEPT_SETS = ("token_class", "first_letter")
WANDB_MODES = ("auto", "online", "offline", "disabled")
DEVICES = ("auto", "cpu", "cuda")


@dataclass
class LMConfig:
    name: str
    hook_name: str
    dtype: str
    batch_size: int  # sequences per forward


@dataclass
class DataConfig:
    source: str
    context_length: int
    batch_size: int  # activations per SAE step
    train_tokens: int  # activations the SAE is trained on
    window_tokens: int  # activations held and shuffled at once
    scale_tokens: int  # activations from which scale and mean are estimated
    max_epochs: float
    validation_share: float  # of the documents
    store_dir: str
    path: list[str] = field(default_factory=list)  # source=text; source=synthetic: the LM's folder
    column: str = "text"  # source=text, hub
    name: str | None = None  # source=hub, with split and revision
    split: str = "train"
    revision: str | None = None


@dataclass
class TokenMaskConfig:
    rate: float
    replacement: str
    loss_positions: str
    target: str
    span: float
    schedule: str
    initial_rate: float


@dataclass
class LatentMaskConfig:
    rate: float


@dataclass
class InputMaskConfig:
    rate: float


@dataclass
class MaskConfig:
    token: TokenMaskConfig
    latent: LatentMaskConfig
    input: InputMaskConfig


@dataclass
class SAEConfig:
    """Settings that an architecture does not have are None, or empty."""

    architecture: str
    d_sae: int
    dead_after_tokens: int
    compute_dtype: str
    reference: bool  # train by dense products
    calibrate: str  # clean: after training, thresholds that give clean text the L0 of training; none: those learned
    calibration_tokens: int
    # topk, batch_topk, matryoshka
    k: int | None = None
    aux_k: int | None = None
    aux_coefficient: float | None = None
    threshold_decay: float | None = None
    group_fractions: list[float] = field(default_factory=list)  # matryoshka
    # relu, jumprelu, gated
    sparsity_coefficient: float | None = None
    sparsity_warmup_steps: int | None = None
    threshold_init: float | None = None  # jumprelu
    bandwidth: float | None = None  # jumprelu


@dataclass
class OptimConfig:
    lr: float
    warmup_steps: int
    decay_fraction: float
    gradient_clip: float


@dataclass
class TrainerConfig:
    device: str
    threads: int | None  # torch's CPU threads; null leaves torch's choice
    log_every_steps: int
    checkpoint_every_steps: int
    progress: bool
    validate_every_steps: int | None = None  # null: never
    validation_tokens: int = 2048


@dataclass
class WandbConfig:
    mode: str
    project: str
    entity: str | None
    tags: list[str]
    artifact: bool = False  # uploads the SAE at the end


@dataclass
class LoggerConfig:
    wandb: WandbConfig


@dataclass
class EvalConfig:
    """What is measured; it changes no run's id, and may change after training."""

    families: list[str]
    seed: int
    tokens: int  # held-out activations: core, ground_truth
    batch_size: int  # sequences per forward with the SAE spliced in
    dense_frequency: float  # a latent that fires more often than this is dense
    concepts: list[str]  # absorption: sets of concepts
    concept_tokens: int  # absorption: positions of token_class
    concept_words: int | None  # absorption: words of first_letter; null: the whole vocabulary
    text_tokens: int  # sparse_probing, tpp, scr, ood: tokens of a text
    texts_per_class: int | None  # of either split; null: all there are
    cache_dir: str
    tasks: list[Any] = field(default_factory=list[Any])  # labelled texts; empty: the standard library's


@dataclass
class RunConfig:
    """Everything that determines one run."""

    name: str  # of the experiment or sweep: the folder that holds the run
    seed: int
    output_dir: str
    force: bool  # starts over, whatever lies in the run's folder
    detach: bool  # submits a sweep to SLURM and returns
    lm: LMConfig
    data: DataConfig
    mask: MaskConfig
    sae: SAEConfig
    optim: OptimConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    eval: EvalConfig


def check(config: RunConfig) -> None:
    """Refuses what cannot work, as far as the configuration alone tells.

    Raises:
        InputError: names the first key that is wrong, its value and what would be valid.
    """
    _check_data(config.data)
    _check_mask(config.mask)
    _check_sae(config.sae)
    _at_least("seed", config.seed, 0)
    _one_of("lm.dtype", config.lm.dtype, DTYPES)
    _one_of("trainer.device", config.trainer.device, DEVICES)
    _one_of("logger.wandb.mode", config.logger.wandb.mode, WANDB_MODES)
    if not 0 < config.optim.lr < math.inf:
        raise InputError("optim.lr", config.optim.lr, "a finite number above 0")
    _at_least("optim.warmup_steps", config.optim.warmup_steps, 0)
    _share("optim.decay_fraction", config.optim.decay_fraction)
    _at_least("optim.gradient_clip", config.optim.gradient_clip, 0)
    for key in ("log_every_steps", "checkpoint_every_steps"):
        _at_least(f"trainer.{key}", getattr(config.trainer, key), 1)
    for key in ("threads", "validate_every_steps", "validation_tokens"):
        value = getattr(config.trainer, key)
        if value is not None:
            _at_least(f"trainer.{key}", value, 1)
    _at_least("lm.batch_size", config.lm.batch_size, 1)
    check_eval(config.eval)
    if not config.name or "/" in config.name or config.name.startswith("."):
        raise InputError("name", config.name, "a folder name")


def check_eval(settings: EvalConfig) -> None:
    """As `check`, for what is measured."""
    for family in settings.families:
        _one_of("eval.families", family, FAMILIES)
    for concepts in settings.concepts:
        _one_of("eval.concepts", concepts, CONCEPT_SETS)
    _at_least("eval.seed", settings.seed, 0)
    for key in ("tokens", "batch_size", "concept_tokens", "concept_words", "text_tokens", "texts_per_class"):
        value = getattr(settings, key)
        if value is not None:
            _at_least(f"eval.{key}", value, 1)
    _share("eval.dense_frequency", settings.dense_frequency)


def _check_data(data: DataConfig) -> None:
    _one_of("data.source", data.source, SOURCES)
    if data.source == "text" and not data.path:
        raise InputError("data.path", data.path, "files, folders or globs of .txt, .jsonl or .parquet files")
    if data.source == "synthetic" and len(data.path) != 1:
        raise InputError("data.path", data.path, "one folder, of a synthetic LM such as assets/ground_truth_lm")
    if data.source == "hub" and not data.name:
        raise InputError("data.name", data.name, "the name of a Hugging Face dataset")
    _at_least("data.context_length", data.context_length, 4)
    _at_least("data.batch_size", data.batch_size, 2)  # one activation has no variance to explain
    if data.train_tokens < data.batch_size:
        raise InputError("data.train_tokens", data.train_tokens, f"at least one batch ({data.batch_size} activations)")
    if data.window_tokens < data.batch_size:
        raise InputError("data.window_tokens", data.window_tokens, f"at least data.batch_size={data.batch_size}")
    _at_least("data.scale_tokens", data.scale_tokens, 1)
    _above("data.max_epochs", data.max_epochs, 0)
    if not 0 < data.validation_share < 1:
        raise InputError("data.validation_share", data.validation_share, "a share between 0 and 1, both excluded")


def _check_mask(mask: MaskConfig) -> None:
    token = mask.token
    for key, rate in (
        ("token.rate", token.rate),
        ("token.initial_rate", token.initial_rate),
        ("latent.rate", mask.latent.rate),
        ("input.rate", mask.input.rate),
    ):
        _share(f"mask.{key}", rate)
    _one_of("mask.token.loss_positions", token.loss_positions, LOSS_POSITIONS)
    _one_of("mask.token.target", token.target, TARGETS)
    _one_of("mask.token.schedule", token.schedule, SCHEDULES)
    if not token.span >= 1:
        raise InputError("mask.token.span", token.span, "a mean span length of at least 1 (1: independent tokens)")
    lowest, highest = token_rate_range(token)
    if token.loss_positions == "masked" and lowest == 0:
        key = "rate" if token.rate == 0 else "initial_rate"
        raise InputError(f"mask.token.{key}", 0, "above 0 while mask.token.loss_positions=masked: nothing is masked")
    if token.loss_positions == "unmasked" and highest == 1:
        key = "rate" if token.rate == 1 else "initial_rate"
        raise InputError(f"mask.token.{key}", 1, "under 1 while mask.token.loss_positions=unmasked: all is masked")


def token_rate_range(token: TokenMaskConfig) -> tuple[float, float]:
    """The lowest and the highest rate that the schedule takes."""
    if token.schedule == "constant":
        return token.rate, token.rate
    return min(token.rate, token.initial_rate), max(token.rate, token.initial_rate)


def _check_sae(sae: SAEConfig) -> None:
    _one_of("sae.architecture", sae.architecture, tuple(ARCHITECTURES))
    for name in ARCHITECTURES[sae.architecture]:
        if getattr(sae, name) is None:
            valid = f"a value for sae.{name} with it: choose the architecture with sae={sae.architecture}"
            raise InputError("sae.architecture", sae.architecture, valid)
    foreign = [
        name for name in _SOME_HAVE if name not in ARCHITECTURES[sae.architecture] and getattr(sae, name) is not None
    ]
    if foreign:
        without = " ".join(f"~sae.{name}" for name in foreign)
        valid = f"none, as {sae.architecture} has no such setting: add {without}"
        raise InputError(f"sae.{foreign[0]}", getattr(sae, foreign[0]), valid)
    _at_least("sae.d_sae", sae.d_sae, 1)
    if sae.k is not None and not 1 <= sae.k <= sae.d_sae:
        raise InputError("sae.k", sae.k, f"1 to sae.d_sae={sae.d_sae}")
    if sae.aux_k is not None and not 0 <= sae.aux_k <= sae.d_sae:
        raise InputError("sae.aux_k", sae.aux_k, f"0 to sae.d_sae={sae.d_sae}")
    for name, lowest in _LOWEST.items():
        value = getattr(sae, name)
        if value is not None:
            _finite(f"sae.{name}", value)
            _at_least(f"sae.{name}", value, lowest)
    if sae.threshold_decay is not None and not 0 <= sae.threshold_decay < 1:
        raise InputError("sae.threshold_decay", sae.threshold_decay, "0 up to but not including 1")
    _one_of("sae.calibrate", sae.calibrate, CALIBRATIONS)
    if sae.bandwidth is not None:
        _finite("sae.bandwidth", sae.bandwidth)
        _above("sae.bandwidth", sae.bandwidth, 0)
    _one_of("sae.compute_dtype", sae.compute_dtype, DTYPES)
    if sae.architecture == "matryoshka":
        fractions = sae.group_fractions
        if not fractions or not min(fractions) > 0 or not abs(sum(fractions) - 1) <= 1e-6:
            raise InputError("sae.group_fractions", fractions, "positive fractions of d_sae that sum to 1")
        if len(fractions) > sae.d_sae:
            raise InputError("sae.group_fractions", fractions, f"at most sae.d_sae={sae.d_sae} groups")


_LOWEST = {
    "aux_coefficient": 0,
    "dead_after_tokens": 1,
    "calibration_tokens": 1,
    "sparsity_coefficient": 0,
    "sparsity_warmup_steps": 0,
    "threshold_init": 0,
}


def _finite(key: str, value: float) -> None:
    if not math.isfinite(value):
        raise InputError(key, value, "a finite number")


def _one_of(key: str, value: Any, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise InputError(key, value, "one of " + ", ".join(valid))


def _share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(key, value, "a number from 0 to 1")


def _above(key: str, value: float, bound: float) -> None:
    if not value > bound:
        raise InputError(key, value, f"a number above {bound}")


def _at_least(key: str, value: float, bound: float) -> None:
    if not value >= bound:
        raise InputError(key, value, f"at least {bound}")
