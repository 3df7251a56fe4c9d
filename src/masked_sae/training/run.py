"""One run from its configuration to its results: what `python -m src.train` does."""

import logging
import os
import shutil
import signal
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.plugins.environments import LightningEnvironment

from masked_sae.activations.held_out import sequences_to_calibrate
from masked_sae.activations.stream import ActivationStatistics
from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.files import write_text
from masked_sae.interop.saelens import export_sae, load_sae
from masked_sae.runs.attempts import note_attempt
from masked_sae.runs.checkpoint import Checkpoint, load_checkpoint
from masked_sae.runs.curve import CurveFile, HistogramFile, read_metrics, read_rows
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import hold
from masked_sae.runs.row import Row
from masked_sae.runs.state import RunState, Status, read_state, write_state
from masked_sae.saes import for_inference
from masked_sae.tracking.run import ForgivingWandbLogger, make_wandb_logger
from masked_sae.training.calibration import calibrated, raised
from masked_sae.training.callbacks.checkpointing import CheckpointCallback, restore
from masked_sae.training.callbacks.metrics import MetricsCallback, Sink
from masked_sae.training.callbacks.progress import ProgressCallback
from masked_sae.training.callbacks.stopping import StopRequest
from masked_sae.training.callbacks.validation import Validation
from masked_sae.training.datamodule import ActivationDataModule
from masked_sae.training.evaluation import evaluate, make_suite, unmeasured
from masked_sae.training.module import SAEModule, Schedule
from masked_sae.training.preparation import Identified, Parts, assemble, find_device, identify, make_sae

_NOTE_EVERY_SECONDS = 10.0  # in state.json, between checkpoints


def train_run(config: RunConfig, swept: Mapping[str, str] | None = None, patience: float = 0.0) -> RunState:
    """Trains one run, or goes on with it where it was left; of a run that is done, measures what is missing.

    Args:
        swept: the keys that a sweep varies, with this run's values.
        patience: seconds to wait where another process holds the run.

    Returns:
        The state it ended in: `done`, or `preempted` after a signal.

    Raises:
        InputError: the configuration, the text or the LM cannot be used; no folder was made.
        HeldError: another process is at it.
    """
    run = identify(config, swept or {})
    folder, device = run.folder, find_device(config.trainer.device)
    if folder.path.exists():
        with hold(folder.lock, patience):  # says who is at it before long work
            state = read_state(folder.state)
            if state is not None and is_complete(folder, config, state) and not config.force:
                return state
    threads = config.trainer.threads or int(os.environ.get("SLURM_CPUS_PER_TASK", 0))
    if threads:
        torch.set_num_threads(threads)
    parts = assemble(run, device)
    resumes = (folder.checkpoints.exists() or folder.sae.exists()) and not config.force
    statistics = None if resumes else parts.stream.statistics(config.data.scale_tokens)
    with hold(folder.lock, patience):
        if config.force:
            clear_run(folder)
        state = read_state(folder.state)
        if state is not None and state.status == "done":
            if not is_complete(folder, config, state):
                evaluate(
                    folder, config, load_sae(folder.sae)[0].to(device), make_suite(config, parts.lm, parts.held_out)
                )
            return state
        checkpoint = load_checkpoint(folder.checkpoints)
        if checkpoint is not None:
            statistics = ActivationStatistics.from_json(checkpoint.meta["statistics"])
        elif statistics is None:
            statistics = parts.stream.statistics(config.data.scale_tokens)
        parts.stream.scale = statistics.scale
        state = _begin(run, replace(state or RunState(folder.run_id, "created"), steps=parts.stream.plan.steps))
        try:
            return _train(run, parts, state, checkpoint, statistics, device)
        except Exception as error:
            _note_end(folder, state, "failed", one_line(error))
            raise
        except BaseException as error:
            _note_end(folder, state, "preempted", f"interrupted by {type(error).__name__}")
            raise


def is_complete(folder: RunFolder, config: RunConfig, state: RunState | None) -> bool:
    """Whether there is nothing left to train or to measure."""
    return state is not None and state.status == "done" and not unmeasured(folder, config.eval)


def _begin(run: Identified, state: RunState) -> RunState:
    try:
        write_text(run.folder.config, OmegaConf.to_yaml(OmegaConf.create(asdict(run.config))))
        return write_state(run.folder.state, state, status="running", error=None)
    except OSError:
        if not run.folder.state.exists():
            shutil.rmtree(run.folder.path, ignore_errors=True)  # nothing half-written stays
        raise


def _note_end(folder: RunFolder, state: RunState, status: Status, error: str) -> None:
    with suppress(OSError):  # a full disk must not hide the error itself
        write_state(folder.state, read_state(folder.state) or state, status=status, error=error)


def clear_run(folder: RunFolder) -> None:
    """Empties a run's folder, but for the lock that the caller holds."""
    for path in folder.path.iterdir():
        if path.name.startswith(folder.lock.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: {text}"


def _train(
    run: Identified,
    parts: Parts,
    state: RunState,
    checkpoint: Checkpoint | None,
    statistics: ActivationStatistics,
    device: torch.device,
) -> RunState:
    config, folder = run.config, run.folder
    module = _make_module(config, parts, statistics, device)
    resumed_at = 0 if checkpoint is None else checkpoint.meta["step"]
    if resumed_at < parts.stream.plan.steps:  # else only the evaluation is left
        note_attempt(folder.attempts, resumed_at, device)
    progress = ProgressCallback(config.data.batch_size, config.trainer.progress)
    sinks: list[Sink] = [
        HistogramFile(folder.histograms, resumed_at),
        CurveFile(folder.metrics, resumed_at),
        progress,
    ]
    wandb_logger = make_wandb_logger(
        config.logger.wandb,
        run_id=folder.run_id,
        group=config.name,
        folder=folder.path,
        config=asdict(config),
        resumes=resumed_at > 0,
    )
    if wandb_logger is not None:
        wandb_logger.begin(read_rows(folder.metrics, folder.histograms, resumed_at))
        sinks.append(wandb_logger.log_row)
    metrics = MetricsCallback(
        sinks,
        config.data.batch_size,
        config.trainer.log_every_steps,
        parts.stream.watch,
        _validation(config, parts, statistics.scale),
        seconds=0.0 if checkpoint is None else checkpoint.meta["seconds"],
    )

    def note(step: int) -> None:
        nonlocal state
        state = write_state(folder.state, state, step=step, **_progress_of(metrics, step * config.data.batch_size))

    def note_now_and_then(row: Row) -> None:
        nonlocal noted_at
        if time.monotonic() - noted_at > _NOTE_EVERY_SECONDS:
            noted_at = time.monotonic()
            note(row.step)

    noted_at = time.monotonic()
    sinks.append(note_now_and_then)
    stop = StopRequest()
    checkpointing = CheckpointCallback(
        folder.checkpoints,
        config.trainer.checkpoint_every_steps,
        stop,
        extra=lambda: {"statistics": statistics.to_json(), "seconds": metrics.seconds},
        on_saved=note,
    )
    try:
        _fit(module, parts, [metrics, progress, checkpointing], checkpoint, config, stop, device)
        if stop.signal is not None and module.step == module.schedule.steps:
            signal.raise_signal(stop.signal)  # it came with the last step: whoever was there before us handles it
        if module.step < module.schedule.steps:
            if wandb_logger is not None:
                wandb_logger.note_preemption()
            return write_state(folder.state, state, status="preempted", error=f"stopped by {stop.name}")
        return _finish(run, parts, module, state, metrics, statistics.scale, wandb_logger)
    finally:
        if wandb_logger is not None:
            wandb_logger.finish(failed=module.step < module.schedule.steps)


def _validation(config: RunConfig, parts: Parts, scale: float) -> Validation | None:
    trainer = config.trainer
    if trainer.validate_every_steps is None:
        return None
    return Validation(
        parts.lm,
        parts.held_out,
        scale,
        every=trainer.validate_every_steps,
        tokens=trainer.validation_tokens,
        batch_size=min(config.lm.batch_size, config.eval.batch_size),  # beside training there is less memory
    )


def _make_module(config: RunConfig, parts: Parts, statistics: ActivationStatistics, device: torch.device) -> SAEModule:
    sae = make_sae(config.sae, parts.lm.d_in, config.seed)
    with torch.no_grad():
        sae.b_dec_D.copy_(statistics.mean_D * statistics.scale)
    steps = parts.stream.plan.steps
    schedule = Schedule(config.optim.lr, config.optim.warmup_steps, config.optim.decay_fraction, steps)
    module = SAEModule(
        sae,
        schedule,
        config.seed,
        latent_mask_rate=config.mask.latent.rate,
        input_mask_rate=config.mask.input.rate,
        penalty_warmup_steps=config.sae.sparsity_warmup_steps or 0,
    )
    return module.to(device)


def _fit(
    module: SAEModule,
    parts: Parts,
    callbacks: list[pl.Callback],
    checkpoint: Checkpoint | None,
    config: RunConfig,
    stop: StopRequest,
    device: torch.device,
) -> None:
    start = 0 if checkpoint is None else checkpoint.meta["step"]
    if checkpoint is not None:
        callbacks = [_Restore(checkpoint), *callbacks]
    if start == parts.stream.plan.steps:
        assert checkpoint is not None
        restore(module, None, checkpoint)
        return
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
    trainer = pl.Trainer(
        accelerator=device.type,
        devices=1,
        max_epochs=1,
        gradient_clip_val=config.optim.gradient_clip or None,
        callbacks=callbacks,
        plugins=[LightningEnvironment()],  # SLURM's signals are ours to handle
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    stop.listen()
    try:
        trainer.fit(module, datamodule=ActivationDataModule(parts.stream, start))
    finally:
        stop.close()


class _Restore(pl.Callback):
    """Puts the checkpoint back once Lightning has made the optimizer."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        restore(pl_module, trainer.optimizers[0], self._checkpoint)


def _finish(
    run: Identified,
    parts: Parts,
    module: SAEModule,
    state: RunState,
    metrics: MetricsCallback,
    scale: float,
    wandb_logger: ForgivingWandbLogger | None,
) -> RunState:
    config, folder = run.config, run.folder
    sae = for_inference(module.sae.eval(), scale)
    if config.sae.calibrate == "clean" and sae.threshold_F is not None:
        sequences = sequences_to_calibrate(parts.held_out, config.sae.calibration_tokens)
        calibrate, l0 = (raised, _last_l0(folder)) if config.sae.k is None else (calibrated, config.sae.k)
        sae = calibrate(sae, l0, parts.lm, parts.held_out, sequences, config.eval.batch_size)
    export_sae(folder.sae, sae, _provenance(config, folder, scale))
    results = evaluate(folder, config, sae, make_suite(config, parts.lm, parts.held_out))
    tokens = module.step * config.data.batch_size
    if wandb_logger is not None:
        wandb_logger.conclude(results, tokens, folder)
    return write_state(folder.state, state, status="done", step=module.step, **_progress_of(metrics, tokens))


def _last_l0(folder: RunFolder) -> float:
    """Of the last batch of the training, which may have been another attempt's."""
    rows = read_metrics(folder.metrics)
    if not rows:
        raise InputError("metrics.csv", folder.metrics, "the training's curve, whose last L0 calibrates the thresholds")
    return rows[-1]["l0"]


def _progress_of(metrics: MetricsCallback, tokens: int) -> dict[str, Any]:
    progress: dict[str, Any] = {"tokens": tokens, "seconds": round(metrics.seconds, 2)}
    if metrics.latest:
        progress["tokens_per_second"] = metrics.latest["tokens_per_second"]
        progress["metrics"] = {key: metrics.latest[key] for key in ("loss", "l0", "explained_variance")}
    return progress


def _provenance(config: RunConfig, folder: RunFolder, scale: float) -> dict[str, Any]:
    return {
        "model_name": config.lm.name,
        "hook_name": config.lm.hook_name,
        "context_size": config.data.context_length,
        "model_class_name": "TransformerBridge",
        "masked_sae_run_id": folder.run_id,
        "masked_sae_scale": scale,
        "masked_sae_calibrate": config.sae.calibrate,
        "masked_sae_mask": asdict(config.mask),
    }
