"""A run of a pack while it trains: its SAE, its files, its clock. Whatever befalls it is its own."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from masked_sae.activations.scale import ActivationStatistics
from masked_sae.activations.windows import Point
from masked_sae.errors import notice, one_line
from masked_sae.runs.asked_end import AskedEnd
from masked_sae.runs.attempts import note_attempt
from masked_sae.runs.checkpoint import Checkpoint
from masked_sae.runs.code import code_digest
from masked_sae.runs.curve import CurveFile, HistogramFile, Metrics, Row
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.initial import Initial
from masked_sae.runs.lock import is_anothers
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState, write_state
from masked_sae.settings import own_modules
from masked_sae.tracking.run_tracker import begin_tracking
from masked_sae.training.assemble import TrainingParts, make_training
from masked_sae.training.clock import TrainingClock
from masked_sae.training.done import known_state
from masked_sae.training.folder_watch import FolderWatch
from masked_sae.training.member import Member
from masked_sae.training.out_of_memory import TRAINING, told
from masked_sae.training.restoring import begin_with, restore
from masked_sae.training.state_notes import StateNotes


class RunInTraining(Member):
    """Made once the run's folder is its own, and its state says `running`.

    Args:
        checkpoint: that it goes on from.
        initial: what it begins with where there is none, in place of weights of its own.

    Attributes:
        run, training: what is trained.
        parts: what it is trained with.
        statistics: of the activations that it began with.
        point: where its batches come from.
        state, error: how it ended, once it has: one of the two.
        release: called when it has ended, to give its folder back to others.
    """

    def __init__(
        self,
        run: Run,
        parts: TrainingParts,
        statistics: ActivationStatistics,
        state: RunState,
        checkpoint: Checkpoint | None,
        initial: Initial | None = None,
    ) -> None:
        config, folder, device = run.config, run.folder, parts.device
        training = make_training(run, parts, statistics)
        if checkpoint is not None:
            restore(training, checkpoint)
        elif initial is not None:
            begin_with(training, initial)
        self.run, self.parts, self.training, self.statistics = run, parts, training, statistics
        self.state: RunState | None = None
        self.release: Callable[[], object] = lambda: None
        self.point = Point(config.lm.hook_name, statistics.scale)
        self.error: Exception | None = None
        self._resumed_row: Metrics | None = None if checkpoint is None else checkpoint.meta.get("last_row")
        resumed_at = training.step
        if resumed_at < training.schedule.steps:  # else only the evaluation is left
            modules, ranks = dict(own_modules(config).values()), config.trainer.ranks
            note_attempt(folder.attempts, resumed_at, device, modules, code_digest(), ranks)
        self.watch = FolderWatch(folder.path)
        self.clock = TrainingClock(device, 0.0 if checkpoint is None else checkpoint.meta["seconds"])
        self.notes = StateNotes(folder.state, state, config.data.batch_size, self.clock)
        curve, histograms = CurveFile(folder.metrics, resumed_at), HistogramFile(folder.histograms, resumed_at)
        if curve.last_step < (self._resumed_row or {}).get("step", 0):
            notice(f"{folder.metrics} lacks rows from before step {resumed_at}: the curve has a gap, the SAE none")
        self.tracker = begin_tracking(run, resumed_at, resumes=resumed_at > 0)
        self._sinks = [histograms, curve, *([] if self.tracker is None else [self.tracker.log_row]), self.notes]
        self._rated_at = (resumed_at, 0.0, 0.0)  # step, and seconds of training and of the LM, at the latest row

    @property
    def has_ended(self) -> bool:
        return self.state is not None or self.error is not None

    @property
    def last_row(self) -> Metrics | None:
        """Of the curve: what was measured last, in this attempt or before its checkpoint."""
        return self.notes.latest or self._resumed_row

    def rates(self) -> tuple[float, float]:
        """Tokens per second, and the LM's share of the time, since the row before."""
        step, training, forward = self._rated_at
        now = (self.step, self.clock.training, self.clock.forward)
        elapsed = max(now[1] - training, 1e-9)
        return (self.step - step) * self.run.config.data.batch_size / elapsed, min(1.0, (now[2] - forward) / elapsed)

    def record(self, row: Row) -> None:
        start = time.monotonic()
        for sink in self._sinks:
            sink(row)
        self.clock.add_measuring(time.monotonic() - start)
        self._rated_at = (self.step, self.clock.training, self.clock.forward)

    def extra(self) -> dict[str, Any]:
        """What its checkpoints keep beside the SAE."""
        statistics = self.statistics.to_json()
        return {"statistics": statistics, "seconds": self.clock.seconds, "last_row": self.notes.latest}

    def fail(self, error: Exception) -> None:
        self.error = told(error, TRAINING, self.run)
        note_end(self.run.folder, self.notes.state, status="failed", error=one_line(self.error))
        self._end()

    def interrupt(self, error: BaseException) -> None:
        """Something that is not its own ended all."""
        note_end(self.run.folder, self.notes.state, status="preempted", error=f"interrupted by {type(error).__name__}")
        self._end()

    def give_way(self, why: str) -> None:
        """Its checkpoint is written; the next attempt goes on from there."""
        if self.tracker is not None:
            self.tracker.note_preemption()
        self.state = write_state(self.run.folder.state, self.notes.state, status="preempted", error=why)
        self._end()

    def end_as_asked(self, asked: AskedEnd) -> None:
        """Its checkpoint is written; whoever starts it again goes on from there."""
        self.state = write_state(self.run.folder.state, self.notes.state, status=asked.status, error=asked.why)
        self._end()

    def conclude(self, results: dict[str, float]) -> None:
        """It is measured, and done."""
        if self.tracker is not None:
            self.tracker.conclude(results, self.step * self.run.config.data.batch_size, self.run.folder)
        self.state = self.notes.note(self.step, status="done")
        self._end()

    def _end(self) -> None:
        if self.tracker is not None:
            self.tracker.finish(failed=self.step < self.steps)
        self.tracker = None
        self.release()


def note_end(folder: RunFolder, state: RunState, **changes: Any) -> None:
    """Has a run's state say how it ended, as far as that can be written."""
    if not is_anothers(folder.lock):  # who may have begun anew where the folder was deleted
        with suppress(OSError):  # a full disk must not hide the error itself
            write_state(folder.state, known_state(folder) or state, **changes)
