"""The whole of a run's configuration, typed: `conf/` holds the values, the rooms' dataclasses the names and types."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from masked_sae import checks
from masked_sae.activations.settings import LMSettings
from masked_sae.errors import InputError
from masked_sae.evals.family import find_family
from masked_sae.evals.objective import check_objective
from masked_sae.evals.settings import EvalSettings, FamilySettings
from masked_sae.masks import run_masks as masks
from masked_sae.masks.mask import MaskSettings
from masked_sae.saes import settings as saes
from masked_sae.saes.settings import SAESettings
from masked_sae.settings import dotted, find_own, is_kind, leaves, modules, neutral, recorded, setting
from masked_sae.text.settings import DataSettings

WANDB_MODES = ("auto", "online", "offline", "disabled")
DEVICES = ("auto", "cpu", "cuda")
MATMUL_PRECISIONS = ("highest", "high", "medium")  # as torch calls them
CODES = ("submitted", "current", "live")
MOST_DEVICES = 4096  # of either
OPTIMIZERS = ("adam", "adafactor", "adam8bit")  # see training/optimizers.py
MOST_THREADS = 1024  # more than the CPUs of any node; at tens of thousands torch dies of them
_SMALLEST_LR, _LARGEST_LR = 1e-12, 1e38
_LARGEST_NUMBER = 10**100
_MOST_TFLOPS = 10**6
_LONGEST_NAME = 200  # bytes: files beside the folder have longer names
_LONGEST_PROJECT, _LONGEST_TAG = 128, 64  # as W&B's client has it


@dataclass(kw_only=True)
class OptimSettings:
    lr: float
    warmup_steps: int = setting(unit="steps")
    decay_fraction: float = setting(unit="share of the steps")
    gradient_clip: float
    name: str = neutral("adam", label="optimizer")

    def check(self) -> None:
        """Refuses what cannot work.

        Raises:
            InputError: of the first setting that is wrong.
        """
        if not _SMALLEST_LR <= self.lr <= _LARGEST_LR:
            raise InputError("optim.lr", self.lr, f"a finite number above 0: {_SMALLEST_LR:g} to {_LARGEST_LR:g}")
        checks.count("optim.warmup_steps", self.warmup_steps, least=0)
        checks.share("optim.decay_fraction", self.decay_fraction)
        checks.coefficient("optim.gradient_clip", self.gradient_clip)
        checks.one_of("optim.name", self.name, OPTIMIZERS)


@dataclass(kw_only=True)
class TrainerSettings:
    device: str
    threads: int | None  # of torch on the CPU; null: the run's own, see training/threads.py
    devices: int = 1  # on each of `nodes`: so many processes train together, each with its share of every batch
    nodes: int = 1
    shard_latents: bool = False  # each of these processes has a part of the SAE's latents, and every batch's rows
    log_every_steps: int = setting(unit="steps")
    checkpoint_every_steps: int = setting(unit="steps")
    progress: bool
    validate_every_steps: int | None = None  # null: never
    validation_tokens: int = 2048
    compile: bool = False  # the SAE's step by torch.compile
    matmul_precision: str = neutral("highest", label="matmul precision")  # the one of these that is in the id

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return self.devices * self.nodes

    @property
    def shards(self) -> int:
        """Parts that an SAE's latents are in."""
        return self.ranks if self.shard_latents else 1


@dataclass(kw_only=True)
class WandbSettings:
    mode: str
    project: str
    entity: str | None
    tags: list[str]
    artifact: bool = False  # uploads the SAE at the end


@dataclass(kw_only=True)
class LoggerSettings:
    wandb: WandbSettings


@dataclass(kw_only=True)
class MeasuringConfig:
    """What measuring an SAE takes of a configuration, whatever was trained."""

    name: str  # of the experiment or sweep: the folder that holds the run
    output_dir: str
    force: bool  # starts over, whatever lies in the run's folder
    detach: bool  # submits a sweep to SLURM and returns
    seed: int
    lm: LMSettings
    data: DataSettings
    trainer: TrainerSettings
    logger: LoggerSettings
    eval: EvalSettings
    code: str = "submitted"  # what a run that goes on is trained with: see runs/code.py
    prune: bool = False  # cancels the jobs of a sweep that are not of this command
    pack: str = "auto"  # how many runs share an LM's forwards at most: auto, or a number

    @property
    def data_seed(self) -> int:
        """Draws the text's order, the token mask and the shuffle; `seed` draws the SAE."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def placing(self) -> tuple[Any, ...]:
        """Where it computes, and in which pieces: runs of a pack have it in common."""
        trainer, lm = self.trainer, self.lm
        return (
            trainer.device,
            trainer.devices,
            trainer.nodes,
            trainer.shard_latents,
            lm.device,
            lm.device_map,
            lm.micro_batch_size,
        )

    @property
    def digest_memory(self) -> Path:
        """Where digests of large files are remembered: beside the caches."""
        return Path(self.data.store_dir).expanduser().parent / "digests"


@dataclass(kw_only=True)
class RunConfig(MeasuringConfig):
    """Everything that determines one run."""

    mask: dict[str, MaskSettings]
    sae: SAESettings
    optim: OptimSettings
    init_from: str | None = neutral(None)  # a run that is done, or an SAE of anybody's, that this one begins with
    objective: Any = neutral(None)  # noqa: RUF009 - a field; a metric that a search looks for, or several
    plan: bool = neutral(False)  # starts nothing, and says what training would take
    plan_measure: bool = neutral(False)  # at the speed of a few steps here
    plan_tflops: Any = neutral(None)  # noqa: RUF009 - a field; of a device: a number, or one for each dtype
    plan_utilization: float | None = neutral(None)
    plan_json: str | None = neutral(None)


def typed_config(config: DictConfig) -> RunConfig:
    """A composed configuration as dataclasses. Users' own modules that it names are imported.

    Raises:
        InputError: an architecture, a mask or a family of metrics that does not exist, or a setting of another one.
        OmegaConfBaseException: a key that does not exist, or a value of another type.
    """
    plain = _plain(config)
    _refuse_no_settings(plain)
    sae = _sae_kind(config, plain["sae"])
    kinds = tuple((name, _mask_kind(config, name, values)) for name, values in (plain.get("mask") or {}).items())
    own = _own_families(config, plain)
    _refuse_odd_values(RunConfig, plain)
    _refuse_odd_values(sae, plain["sae"], "sae.")
    for name, kind in kinds:
        _refuse_odd_values(kind, plain["mask"][name], f"mask.{name}.")
    typed = OmegaConf.to_object(OmegaConf.merge(_schema(sae, kinds, own), OmegaConf.create(plain)))
    assert isinstance(typed, RunConfig)
    typed.output_dir = os.path.expanduser(typed.output_dir)  # noqa: PTH111 - an unknown user's stays, for `check`
    typed.data.store_dir = os.path.expanduser(typed.data.store_dir)  # noqa: PTH111
    typed.data.cache_dir = os.path.expanduser(typed.data.cache_dir)  # noqa: PTH111
    typed.data.cache = typed.data.cache.lower()  # a switch of YAML's, or a word
    typed.data.ahead = typed.data.ahead.lower()
    if typed.data.seed == typed.seed:
        typed.data.seed = None
    if typed.data.cache_dtype in checks.DTYPES and not checks.is_coarser(typed.data.cache_dtype, typed.lm.dtype):
        typed.data.cache_dtype = None
    typed.eval.cache_dir = os.path.expanduser(typed.eval.cache_dir)  # noqa: PTH111
    return typed


def recorded_config(stored: DictConfig, command: RunConfig, own: Mapping[str, Any]) -> RunConfig:
    """A configuration as a run's folder has it, for measuring: of what was trained it has what is on record, whether or
    not this version knows it. Nothing is imported that the folder names.

    Args:
        command: of the command that measures; it has `eval`, and what says how and where, if the folder does not.
        own: what the run's results tell of a user's own.

    Raises:
        OmegaConfBaseException: a key that does not exist, or a value of another type, where measuring needs it; or a
            key that the LM or the text is read by is not there: the command's would be another's.
    """
    plain = _plain(stored)
    trained = {name: plain.pop(name, None) or {} for name in ("sae", "mask", "optim")}
    asked = {one.name: getattr(command, one.name) for one in fields(MeasuringConfig)}
    plain["eval"] = {}
    init_from = plain.pop("init_from", None)
    plain.pop("objective", None)  # of a search that is over
    schema = OmegaConf.structured(MeasuringConfig(**asked))
    schema.lm, schema.data = OmegaConf.structured(LMSettings), OmegaConf.structured(DataSettings)
    typed = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(plain)))
    assert isinstance(typed, MeasuringConfig)
    measuring: dict[str, Any] = {one.name: getattr(typed, one.name) for one in fields(MeasuringConfig)}
    measuring["eval"] = command.eval
    kept = {name: mask.get("kept_share") for name, mask in own.get("masks", {}).items()}
    return RunConfig(
        **measuring,
        sae=recorded(SAESettings, trained["sae"]),
        mask={name: masks.recorded_mask(name, values, kept.get(name, 1.0)) for name, values in trained["mask"].items()},
        optim=recorded(OptimSettings, trained["optim"]),
        init_from=init_from,
    )


@cache
def all_settings() -> dict[str, Mapping[str, Any]]:
    """Every key of the configuration, those of all our architectures and masks included, with the words it has."""
    found = dotted(RunConfig)
    del found["mask"]
    for name, kind in modules(masks.PACKAGE, "Settings"):
        found |= dotted(kind, f"mask.{name}.")
    for _, kind in modules(saes.PACKAGE, "Settings"):
        found |= dotted(kind, "sae.")
    return found


def check(config: RunConfig) -> None:
    """Refuses what cannot work, as far as the configuration alone tells.

    Raises:
        InputError: names the first key that is wrong, its value and what would be valid.
    """
    check_measuring(config)
    check_objective(config.objective, config.eval)
    for name, mask in config.mask.items():
        mask.check(f"mask.{name}")
    config.sae.check()
    checks.seed("seed", config.seed)
    config.optim.check()
    if config.data.batch_size % config.trainer.ranks:
        valid = f"a multiple of {config.trainer.ranks}, the processes that share it (trainer.devices x trainer.nodes)"
        raise InputError("data.batch_size", config.data.batch_size, valid)
    if config.trainer.shard_latents:
        _check_shards(config)
    if config.trainer.compile:
        _check_compile(config)
    for key in ("log_every_steps", "checkpoint_every_steps"):
        checks.count(f"trainer.{key}", getattr(config.trainer, key))
    for key in ("validate_every_steps", "validation_tokens"):
        value = getattr(config.trainer, key)
        if value is not None:
            checks.count(f"trainer.{key}", value)
    _check_plan(config)
    for key, value in leaves(config):  # what no check above bounds, of a user's own settings too
        if isinstance(value, float):
            checks.finite(key, value)


def _check_shards(config: RunConfig) -> None:
    ranks, sae = config.trainer.ranks, config.sae
    if ranks == 1:
        valid = "false, or more than one process that share them (trainer.devices x trainer.nodes)"
        raise InputError("trainer.shard_latents", True, valid)
    if sae.d_sae % ranks:
        valid = f"a multiple of {ranks}, the processes that share the latents (trainer.devices x trainer.nodes)"
        raise InputError("sae.d_sae", sae.d_sae, valid)
    if config.optim.name != "adam":
        valid = "adam beside trainer.shard_latents=true: what it keeps is of single weights, and can be divided"
        raise InputError("optim.name", config.optim.name, valid)
    if getattr(sae, "_module_", None) is None:
        sae.check_shards()
    else:
        SAESettings.check_shards(sae)  # of a part of the latents nobody has told an architecture of a user's own


def _check_compile(config: RunConfig) -> None:
    """Sizes that differ from batch to batch would be compiled anew for each."""
    shapes, device = config.sae.shapes, config.trainer.device
    if shapes == "dynamic" or (shapes == "auto" and device != "cuda"):
        valid = "false, or sae.shapes=static beside it (auto is static with trainer.device=cuda)"
        raise InputError("trainer.compile", True, valid)


def check_measuring(config: RunConfig) -> None:
    """As `check`, for what an evaluation takes of a configuration, whatever was trained. Imports users' families."""
    for key, value in leaves(config):
        if isinstance(value, str):
            checks.plain_text(key, value)
    config.lm.check()
    config.data.check()
    checks.one_of("trainer.device", config.trainer.device, DEVICES)
    checks.one_of("trainer.matmul_precision", config.trainer.matmul_precision, MATMUL_PRECISIONS)
    if config.trainer.threads is not None:
        checks.count("trainer.threads", config.trainer.threads, most=MOST_THREADS)
    for key in ("devices", "nodes"):
        checks.count(f"trainer.{key}", getattr(config.trainer, key), most=MOST_DEVICES)
    _check_wandb(config.logger.wandb)
    for family in config.eval.families:
        find_family(family, config.eval)
    config.eval.check()
    checks.path("output_dir", config.output_dir)
    checks.one_of("code", config.code, CODES)
    if not re.fullmatch(r"auto|[1-9][0-9]{0,5}", config.pack):
        raise InputError("pack", config.pack, "auto, or how many runs may share an LM's forwards (1: none)")
    if not config.name.strip() or "/" in config.name or config.name.startswith("."):
        raise InputError("name", config.name, "a folder name")
    if len(checks.os_bytes(config.name)) > _LONGEST_NAME:
        raise InputError("name", f"{config.name[:40]}…", f"a folder name of at most {_LONGEST_NAME} bytes")


def _check_plan(config: RunConfig) -> None:
    asked = {key: getattr(config, key) for key in ("plan_measure", "plan_tflops", "plan_utilization", "plan_json")}
    given = next((key for key, value in asked.items() if value not in (None, False)), None)
    if given is not None and not config.plan:
        raise InputError(given, asked[given], "plan=true beside it, which starts nothing")
    tflops = config.plan_tflops
    numbers = [] if tflops is None else list(tflops.values()) or [None] if isinstance(tflops, dict) else [tflops]
    for value in numbers:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _MOST_TFLOPS:
            valid = f"a device's TFLOP/s, above 0 and at most {_MOST_TFLOPS:,}: a number, or {{float32:N,bfloat16:M}}"
            raise InputError("plan_tflops", tflops, valid)
    for dtype in tflops if isinstance(tflops, dict) else ():
        checks.one_of("plan_tflops", dtype, checks.DTYPES)
    if config.plan_measure and tflops is not None:
        raise InputError("plan_measure", True, "false beside plan_tflops: a speed is measured or given")
    if config.plan_utilization is not None:
        if tflops is None:
            raise InputError(
                "plan_utilization", config.plan_utilization, "plan_tflops beside it, that it is a share of"
            )
        checks.above("plan_utilization", config.plan_utilization, 0)
        checks.at_most("plan_utilization", config.plan_utilization, 1)
    if config.plan_json is not None:
        checks.path("plan_json", config.plan_json)


def _check_wandb(wandb: WandbSettings) -> None:
    """What W&B's client would refuse only when the run begins."""
    checks.one_of("logger.wandb.mode", wandb.mode, WANDB_MODES)
    odd = next((letter for letter in "/\\#?%:" if letter in wandb.project), None)
    if odd is not None or not 1 <= len(wandb.project.strip()) <= _LONGEST_PROJECT:
        valid = f"a project's name: 1 to {_LONGEST_PROJECT} letters, without / \\ # ? % :"
        raise InputError("logger.wandb.project", wandb.project, valid)
    if wandb.entity is not None:
        checks.filled("logger.wandb.entity", wandb.entity)
    for tag in wandb.tags:
        if not 1 <= len(tag) <= _LONGEST_TAG:
            raise InputError("logger.wandb.tags", tag, f"tags of 1 to {_LONGEST_TAG} letters")


def _sae_kind(config: DictConfig, sae: dict[str, Any]) -> type[SAESettings]:
    """The settings of the architecture that is chosen. Those of others that are empty are taken away: runs on record
    from before have them.

    Raises:
        InputError: there is no such architecture, or it does not have one of the settings.
    """
    kind = saes.find_architecture(
        OmegaConf.select(config, "sae.architecture"), OmegaConf.select(config, "sae._module_")
    )
    own, known = {one.name for one in fields(kind)}, all_settings()
    foreign = [name for name in sae if name not in own and f"sae.{name}" in known]  # others are mistyped
    refused = [name for name in foreign if sae[name] not in (None, [])]
    if refused:
        chosen, without = sae["architecture"], " ".join(f"~sae.{name}" for name in refused)
        valid = f"none, as {chosen} has no such setting: choose it with sae={chosen}, and add {without}"
        raise InputError(f"sae.{refused[0]}", sae[refused[0]], valid)
    for name in foreign:
        del sae[name]
    return kind


def _refuse_no_settings(plain: dict[str, Any]) -> None:
    """A single value where settings belong."""
    for key in ("lm", "data", "mask", "sae", "optim", "trainer", "logger", "eval"):
        value = plain.get(key)
        if not isinstance(value, dict):
            raise InputError(key, value, f"settings, such as {key}.NAME=VALUE")
    own = plain["eval"].get("own")
    if own is not None and not isinstance(own, dict):
        raise InputError("eval.own", own, "settings of families, such as eval.own.FAMILY._module_")


def _mask_kind(config: DictConfig, name: str, values: Any) -> type[MaskSettings]:
    if not isinstance(values, dict):
        raise InputError(f"mask.{name}", values, f"settings of the mask, such as mask.{name}.rate")
    return masks.find_mask(name, OmegaConf.select(config, f"mask.{name}._module_"))


def _own_families(config: DictConfig, plain: dict[str, Any]) -> tuple[tuple[str, type[FamilySettings]], ...]:
    found: list[tuple[str, type[FamilySettings]]] = []
    for name in plain.get("eval", {}).get("own") or {}:
        at = f"eval.own.{name}._module_"
        module = OmegaConf.select(config, at)
        if module is None:
            raise InputError("eval.own", name, f"the module that it is in, as {at}")
        found.append((name, find_own(module, "Settings", at, lambda found: is_kind(found, FamilySettings))))
    return tuple(found)


@cache
def _schema(
    sae: type[SAESettings],
    kinds: tuple[tuple[str, type[MaskSettings]], ...],
    own: tuple[tuple[str, type[FamilySettings]], ...],
) -> DictConfig:
    """Names and types of a configuration with these architecture, masks and families of metrics. Nobody changes it."""
    schema = OmegaConf.structured(RunConfig)
    schema.sae = OmegaConf.structured(sae)
    schema.mask = {name: OmegaConf.structured(kind) for name, kind in kinds}
    schema.eval = OmegaConf.structured(EvalSettings)
    for name, kind in own:
        schema.eval.own[name] = OmegaConf.structured(kind)
    return schema


def _refuse_odd_values(kind: type, plain: Any, prefix: str = "") -> None:
    """What OmegaConf would take, or could not tell about in a line: numbers and words for a switch, lists within
    lists, numbers of hundreds of digits.
    """
    for one in fields(kind):
        key, value = f"{prefix}{one.name}", plain.get(one.name) if isinstance(plain, dict) else None
        if isinstance(one.type, type) and is_dataclass(one.type):
            _refuse_odd_values(one.type, value, f"{key}.")
        elif one.type is bool and value not in (True, False, None, "???") and "${" not in str(value):
            raise InputError(key, value, "true or false")
        elif isinstance(value, list) and one.type in (list[str], list[float], list[float] | None):
            if any(isinstance(item, (list, dict)) for item in cast(list[Any], value)):
                raise InputError(key, value, "a list of single values")
        elif isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
            raise InputError(key, f"{'-' if value < 0 else ''}(a number of many digits)", "a smaller number")


def _plain(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    data = plain.get("data")
    path = data.get("path") if isinstance(data, dict) else None
    if isinstance(path, str) and path != "???":
        plain["data"]["path"] = [path]
    return plain
