"""One run from start to end: what `python -m src.train` does.

train_run       what is there already, what is missing, and whose turn it is
  _begin        the folder is made
  _train        the step, again and again
  _finish       thresholds, export, metrics
"""

import shutil
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from masked_sae.activations.scale import ActivationStatistics
from masked_sae.config import RunConfig
from masked_sae.errors import DamagedFileError, notice, one_line
from masked_sae.files import remove_all_leftovers
from masked_sae.interop.saelens import export_sae, load_sae
from masked_sae.runs.attempts import note_attempt
from masked_sae.runs.checkpoint import Checkpoint, load_checkpoint
from masked_sae.runs.config_file import write_config
from masked_sae.runs.curve import CurveFile, HistogramFile, Metrics, read_metrics
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import hold, is_anothers
from masked_sae.runs.results import describe_own
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState, write_state
from masked_sae.saes import for_inference
from masked_sae.settings import own_modules
from masked_sae.tracking.run_tracker import RunTracker, begin_tracking
from masked_sae.training.assemble import (
    TrainingParts,
    find_device,
    find_statistics,
    load_parts,
    make_module,
    make_stream,
)
from masked_sae.training.calibration import calibrate
from masked_sae.training.callbacks.checkpointing import CheckpointCallback
from masked_sae.training.callbacks.folder_watch import FolderWatch
from masked_sae.training.callbacks.metrics import MetricsCallback
from masked_sae.training.callbacks.progress import ProgressCallback
from masked_sae.training.clock import TrainingClock
from masked_sae.training.done import find_lacking, is_complete, known_state, mended, wrong_with_sae
from masked_sae.training.evaluation import evaluate, make_context
from masked_sae.training.fit import fit
from masked_sae.training.module import SAEModule
from masked_sae.training.state_notes import StateNotes
from masked_sae.training.stop_signals import StopRequest
from masked_sae.training.threads import use_threads, with_threads
from masked_sae.training.validation import Validation


def train_run(run: Run, patience: float = 0.0) -> RunState:
    """Trains a run, or goes on with it where it was left; of a run that is done, measures what is missing.

    Args:
        patience: seconds to wait where another process holds the run.

    Returns:
        The state it ended in: `done`, or `preempted` after a signal.

    Raises:
        InputError: the configuration, the text or the LM cannot be used; no folder was made.
        HeldError: another process is at it.
    """
    folder, force = run.folder, run.config.force
    if folder.path.exists() and not force:
        found = known_state(folder)
        if found is not None and is_complete(run, found):
            return found  # nothing is written, so it need not be possible
        with hold(folder.lock, patience):  # says who is at it before long work
            if (found := mended(run)) is not None:
                return found
    device = find_device(run.config.trainer.device)
    threads = use_threads(None if force else folder, run.config.trainer.threads)
    run = with_threads(run, threads)
    parts = load_parts(run, device)
    goes_on = (folder.checkpoints.exists() or folder.sae.exists()) and not force
    statistics = None if goes_on else find_statistics(run, parts)  # refuses what it has to before there is a folder
    with hold(folder.lock, patience):
        if force:
            clear_run(folder)
        for each in (folder.path, folder.evals, folder.checkpoints):
            remove_all_leftovers(each)
        state = known_state(folder, tell=True)
        if state is not None and state.status == "done" and not wrong_with_sae(folder, run.config):
            _measure_what_is_missing(run, parts)
            return state
        checkpoint = load_checkpoint(folder.checkpoints)
        if checkpoint is not None:
            statistics = ActivationStatistics.from_json(checkpoint.meta["statistics"])
        statistics = statistics or find_statistics(run, parts)
        state = _begin(run, replace(state or RunState(folder.run_id, "created"), steps=parts.plan.steps))
        with _told_how_it_ended(folder, state):
            return _train(run, parts, state, checkpoint, statistics)


def clear_run(folder: RunFolder) -> None:
    """Empties a run's folder, but for the lock that the caller holds."""
    for path in folder.path.iterdir():
        if path.name.startswith(folder.lock.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _measure_what_is_missing(run: Run, parts: TrainingParts) -> None:
    if find_lacking(run.folder, run.config):
        context = make_context(run.config, parts.lm, parts.held_out)
        evaluate(
            run, load_sae(run.sae, run.config.digest_memory)[0].to(parts.lm.device), context, describe_own(run.config)
        )


def _begin(run: Run, state: RunState) -> RunState:
    try:
        write_config(run.folder.config, run.settings)
        return write_state(run.folder.state, state, status="running", error=None)
    except OSError:
        if not run.folder.state.exists():
            shutil.rmtree(run.folder.path, ignore_errors=True)  # nothing half-written stays
        raise


@contextmanager
def _told_how_it_ended(folder: RunFolder, state: RunState) -> Generator[None]:
    """Has the run's state say what went wrong inside."""

    def note(**changes: Any) -> None:
        if not is_anothers(folder.lock):  # who may have begun anew where the folder was deleted
            with suppress(OSError):  # a full disk must not hide the error itself
                write_state(folder.state, known_state(folder) or state, **changes)

    try:
        yield
    except Exception as error:
        note(status="failed", error=one_line(error))
        raise
    except BaseException as error:
        note(status="preempted", error=f"interrupted by {type(error).__name__}")
        raise


def _train(
    run: Run,
    parts: TrainingParts,
    state: RunState,
    checkpoint: Checkpoint | None,
    statistics: ActivationStatistics,
) -> RunState:
    config, folder, device = run.config, run.folder, parts.lm.device
    stream, module = make_stream(run, parts, statistics.scale), make_module(run, parts, statistics)
    resumed_at = 0 if checkpoint is None else checkpoint.meta["step"]
    if resumed_at < parts.plan.steps:  # else only the evaluation is left
        note_attempt(folder.attempts, resumed_at, device, dict(own_modules(config).values()))
    watch = FolderWatch(folder.path)
    clock = TrainingClock(0.0 if checkpoint is None else checkpoint.meta["seconds"])
    notes = StateNotes(folder.state, state, config.data.batch_size, clock)
    progress = ProgressCallback(config.data.batch_size, config.trainer.progress)
    curve, histograms = CurveFile(folder.metrics, resumed_at), HistogramFile(folder.histograms, resumed_at)
    if checkpoint is not None and curve.last_step < checkpoint.meta.get("last_row", {}).get("step", 0):
        notice(f"{folder.metrics} lacks rows from before step {resumed_at}: the curve has a gap, the SAE none")
    tracker = begin_tracking(run, resumed_at, resumes=resumed_at > 0)
    metrics = MetricsCallback(
        [histograms, curve, progress, *([] if tracker is None else [tracker.log_row]), notes],
        config.data.batch_size,
        config.trainer.log_every_steps,
        stream.watch,
        clock,
        _validation(config, parts, statistics.scale),
    )
    stop = StopRequest()
    checkpointing = CheckpointCallback(
        folder.checkpoints,
        config.trainer.checkpoint_every_steps,
        stop,
        extra=lambda: {"statistics": statistics.to_json(), "seconds": clock.seconds, "last_row": notes.latest},
        on_saved=notes.note,
    )
    try:
        callbacks = [watch, metrics, progress, checkpointing]
        fit(module, stream, callbacks, checkpoint, stop, config.optim.gradient_clip)
        if stop.signal is not None and module.step == module.schedule.steps:
            signal.raise_signal(stop.signal)  # it came with the last step: whoever was there before us handles it
        if module.step < module.schedule.steps:
            if tracker is not None:
                tracker.note_preemption()
            return write_state(folder.state, notes.state, status="preempted", error=f"stopped by {stop.name}")
        watch.refuse_another()
        last_row = notes.latest or (checkpoint.meta.get("last_row") if checkpoint is not None else None)
        _finish(run, parts, module, statistics.scale, tracker, last_row)
        return notes.note(module.step, status="done")
    finally:
        if tracker is not None:
            tracker.finish(failed=module.step < module.schedule.steps)


def _validation(config: RunConfig, parts: TrainingParts, scale: float) -> Validation | None:
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


def _finish(
    run: Run,
    parts: TrainingParts,
    module: SAEModule,
    scale: float,
    tracker: RunTracker | None,
    last_row: Metrics | None,
) -> None:
    """Calibrates, exports and measures the SAE."""
    config, folder = run.config, run.folder
    trained = for_inference(module.sae.eval(), scale)
    last_l0 = lambda: _last_l0(folder, module.step, last_row)  # noqa: E731
    sae = calibrate(trained, config.sae, last_l0, parts.lm, parts.held_out, config.lm.batch_size)
    if run.sae.exists() and wrong_with_sae(folder, config):
        shutil.rmtree(run.sae)
    export_sae(run.sae, sae, _provenance(run, scale))
    context = make_context(config, parts.lm, parts.held_out)
    results = evaluate(run, sae, context, describe_own(config))
    if tracker is not None:
        tracker.conclude(results, module.step * config.data.batch_size, folder)


def _last_l0(folder: RunFolder, steps: int, last_row: Metrics | None) -> float:
    """Of the last batch of the training, which may have been another attempt's.

    Args:
        last_row: of the curve, as this attempt or its checkpoint has it; None of one from before it was kept there.
    """
    rows = [last_row] if last_row else read_metrics(folder.metrics)[-1:]
    if not rows or rows[0].get("step") != steps or "l0" not in rows[0]:
        why = f"no row of step {steps}, whose L0 calibrates the thresholds"
        raise DamagedFileError(folder.metrics, why, "force=true trains it again")
    return rows[0]["l0"]


def _provenance(run: Run, scale: float) -> dict[str, Any]:
    """What SAELens keeps of an SAE's origin, and what we do."""
    config = run.config
    return {
        "model_name": config.lm.name,
        "hook_name": config.lm.hook_name,
        "context_size": config.data.context_length,
        "model_class_name": "TransformerBridge",
        "masked_sae_run_id": run.folder.run_id,
        "masked_sae_scale": scale,
        "masked_sae_calibrate": config.sae.calibrate,
        "masked_sae_mask": run.settings["mask"],
    }
