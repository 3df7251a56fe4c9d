"""Runs that share their LM's forwards, trained together: each is left as if it had been trained alone.

train_pack        what is there already, and what is missing
  _train_alike    LM and text, once; whose turn it is; the processes that help (`lead.py`)
    _begin        the folders are made
    fit           the step, again and again
    finish        thresholds, export, metrics
"""

import shutil
import signal
from collections.abc import Generator, Hashable, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch

from masked_sae.activations.scale import ActivationStatistics
from masked_sae.errors import InputError, one_line
from masked_sae.files import remove_all_leftovers
from masked_sae.runs.asked_end import asked_end
from masked_sae.runs.checkpoint import load_checkpoint
from masked_sae.runs.code import refuse_other_code
from masked_sae.runs.config_file import write_config
from masked_sae.runs.folder import clear_run
from masked_sae.runs.lm_library import tell_of_other_lm_library
from masked_sae.runs.lock import hold
from masked_sae.runs.run import Run, find_inputs_of
from masked_sae.runs.state import RunState, write_state
from masked_sae.training.assemble import (
    LMAndText,
    find_caches,
    find_device,
    load_lm_and_text,
    make_parts,
    make_stream,
)
from masked_sae.training.beginning import Candidate, find_beginnings
from masked_sae.training.callbacks.checkpointing import CheckpointCallback
from masked_sae.training.callbacks.metrics import MetricsCallback
from masked_sae.training.callbacks.progress import ProgressCallback
from masked_sae.training.callbacks.together import TogetherCallback
from masked_sae.training.done import is_complete, known_state, mended, wrong_with_sae
from masked_sae.training.finish import Done, finish, measure_done
from masked_sae.training.fit import fit
from masked_sae.training.follow import Task
from masked_sae.training.lead import Followers, followers, group_of
from masked_sae.training.out_of_memory import LOADING, MAKING, SCALE, TRAINING, telling, told
from masked_sae.training.run_in_training import RunInTraining, note_end
from masked_sae.training.sharing_out import gather_trained, share_out
from masked_sae.training.stop_signals import StopRequest
from masked_sae.training.threads import own_threads, use_threads, with_threads
from masked_sae.training.validation import Validation


@dataclass(frozen=True)
class Outcome:
    """How a member of a pack ended.

    Attributes:
        state: `done`, `preempted`, or as it was asked to end; None where there is an error, and of one that was not
        begun when a signal came.
        error: what befell it: `HeldError` where another process is at it.
    """

    run: Run
    state: RunState | None
    error: Exception | None = None


class _Outcomes:
    """Those of a pack, by run."""

    def __init__(self) -> None:
        self._found: dict[str, Outcome] = {}

    def note(self, run: Run, state: RunState | None, error: Exception | None = None) -> None:
        self._found[str(run.folder.path)] = Outcome(run, state, error)

    @contextmanager
    def of(self, *runs: Run) -> Generator[None]:
        """An error inside is that of those of these runs that have no outcome yet, and no other's."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever befalls one member, the others go on
            for run in self.lacking(runs):
                self.note(run, None, told(error, TRAINING, run, len(runs)))

    def lacking(self, runs: Iterable[Run]) -> list[Run]:
        return [run for run in runs if str(run.folder.path) not in self._found]

    def all(self, runs: Iterable[Run]) -> list[Outcome]:
        return [self._found.get(str(run.folder.path)) or Outcome(run, None) for run in runs]

    @property
    def have_stopped(self) -> bool:
        """Whether a signal came."""
        return any(one.state is not None and one.state.status == "preempted" for one in self._found.values())


def train_pack(runs: Sequence[Run], patience: float = 0.0) -> list[Outcome]:
    """Trains runs of equal `shares.forwards`, or goes on with them where each was left, and measures what is missing.

    Whatever befalls one member is its own: the others go on. Members that compute with other numbers of threads, on
    other devices, or with another piece of a forward at one time, are trained after one another.

    Args:
        patience: seconds to wait for a member that another process holds.
    """
    outcomes = _Outcomes()
    for run in runs:
        with outcomes.of(run):
            state = _settled(run, patience)
            if state is not None:
                outcomes.note(run, state)
    alike: dict[Hashable, list[Run]] = {}
    for run in outcomes.lacking(runs):
        trainer = run.config.trainer
        threads = trainer.threads or own_threads(None if run.config.force else run.folder, None)
        alike.setdefault((threads, run.config.placing), []).append(run)
    for some in alike.values():
        trainer = some[0].config.trainer
        with outcomes.of(*some), followers(trainer.devices, trainer.nodes, find_device(trainer.device).type) as others:
            _train_alike(some, outcomes, patience, others)
        if outcomes.have_stopped:
            break
    return outcomes.all(runs)


def _settled(run: Run, patience: float) -> RunState | None:
    """The state of a run that needs neither LM nor text; None of any other."""
    folder = run.folder
    if not folder.path.exists() or run.config.force:
        return None
    found = known_state(folder)
    if found is not None and is_complete(run, found):
        return found  # nothing is written, so it need not be possible
    with hold(folder.lock, patience):  # says who is at it before long work
        return mended(run)


def _train_alike(runs: Sequence[Run], outcomes: _Outcomes, patience: float, others: Followers | None) -> None:
    """Runs that compute with the same number of threads, on devices of the same kind and number, in the same pieces."""
    device = find_device(runs[0].config.trainer.device, 0 if others else None)
    own = [use_threads(None if run.config.force else run.folder, run.config.trainer.threads) for run in runs]
    runs = [with_threads(run, threads) for run, threads in zip(runs, own, strict=True)]
    found = _load(runs, device, outcomes)
    candidates: list[Candidate] = []
    for run in outcomes.lacking(runs):
        with outcomes.of(run):
            candidates.append(Candidate(run, make_parts(run, found, find_inputs_of(run))))
    fresh = [one for one in candidates if one.run.config.force or not _goes_on(one.run)]
    if fresh:
        with telling(SCALE, fresh[0].run):
            find_beginnings(fresh, outcomes.of)  # refuses what it has to before there is a folder
    members: list[RunInTraining] = []
    done: list[Done] = []
    try:
        with ExitStack() as held:
            for one in candidates:
                if outcomes.lacking([one.run]):
                    with outcomes.of(one.run):
                        begun = _begin(one, outcomes, patience, held)
                        members += [begun] if isinstance(begun, RunInTraining) else []
                        done += [begun] if isinstance(begun, Done) else []
            with outcomes.of(*(one.run for one in done)):
                _measure(done, outcomes)
        if members:
            _train(members, others)
    except Exception as error:  # noqa: BLE001 - of what they share
        for member in members:
            if not member.has_ended:
                member.fail(told(error, TRAINING, member.run, len(members)))
    except BaseException as error:
        for member in members:
            if not member.has_ended:
                member.interrupt(error)
        raise
    for member in members:
        outcomes.note(member.run, member.state, member.error)


def _load(runs: Sequence[Run], device: torch.device, outcomes: _Outcomes) -> LMAndText:
    """At the hook point of the first run whose hook point is there.

    Raises:
        InputError: the LM or the text cannot be used.
    """
    try:
        with telling(LOADING, runs[0]):
            return load_lm_and_text(runs[0].config, find_inputs_of(runs[0]), device)
    except InputError as error:
        hook_name = runs[0].config.lm.hook_name
        others = [run for run in runs if run.config.lm.hook_name != hook_name]
        if error.key != "lm.hook_name" or not others:
            raise
        for run in runs:
            if run not in others:
                outcomes.note(run, None, error)
        return _load(others, device, outcomes)


def _goes_on(run: Run) -> bool:
    return run.folder.checkpoints.exists() or run.folder.sae.exists()


def _measure(done: Sequence[Done], outcomes: _Outcomes) -> None:
    for one, error in zip(done, measure_done(done), strict=True):
        with outcomes.of(one.run):
            if error is not None:
                raise error
            outcomes.note(one.run, known_state(one.run.folder))


def _begin(
    one: Candidate, outcomes: _Outcomes, patience: float, held_by_done: ExitStack
) -> RunInTraining | Done | None:
    """Makes the run's folder its own; None where how it ended is noted: by an error, or asked to.

    Args:
        held_by_done: keeps the folder, where the run is done and only to be measured.
    """
    run, folder = one.run, one.run.folder
    with ExitStack() as held:
        held.enter_context(hold(folder.lock, patience))
        if run.config.force:
            clear_run(folder)
        for each in (folder.path, folder.evals, folder.checkpoints):
            remove_all_leftovers(each)
        state = known_state(folder, tell=True)
        if (asked := asked_end(folder)) is not None:
            state = state or RunState(folder.run_id, "created")
            outcomes.note(run, write_state(folder.state, state, status=asked.status, error=asked.why))
            return None
        if state is not None and state.status == "done" and not wrong_with_sae(folder, run.config):
            held_by_done.push(held.pop_all())
            return Done(run, one.parts)
        checkpoint = load_checkpoint(folder.checkpoints)
        if checkpoint is not None:
            refuse_other_code(folder, run.config.code)
            tell_of_other_lm_library(folder)
            one.statistics = ActivationStatistics.from_json(checkpoint.meta["statistics"])
        elif one.statistics is None:
            find_beginnings([one], outcomes.of)
            if one.statistics is None:
                return None
        state = _say_running(run, replace(state or RunState(folder.run_id, "created"), steps=one.parts.plan.steps))
        try:
            with telling(MAKING, run):
                member = RunInTraining(run, one.parts, one.statistics, state, checkpoint, one.initial)
        except Exception as error:
            note_end(folder, state, status="failed", error=one_line(error))
            raise
        except BaseException as error:
            note_end(folder, state, status="preempted", error=f"interrupted by {type(error).__name__}")
            raise
        one.initial = None  # as large as the SAE
        member.release = held.pop_all().close
        return member


def _say_running(run: Run, state: RunState) -> RunState:
    try:
        write_config(run.folder.config, run.settings)
        return write_state(run.folder.state, state, status="running", error=None)
    except OSError:
        if not run.folder.state.exists():
            shutil.rmtree(run.folder.path, ignore_errors=True)  # nothing half-written stays
        raise


def _train(members: Sequence[RunInTraining], others: Followers | None) -> None:
    """Every member ends: done, failed, or preempted where a stop was asked for."""
    longest = max(members, key=lambda member: member.steps)
    points = list(dict.fromkeys(member.point for member in members))
    caches = find_caches([member.run for member in members], longest.parts)
    stop, trainer = StopRequest(), longest.run.config.trainer
    callbacks: list[pl.Callback] = [
        MetricsCallback(_validations(members)),
        ProgressCallback(longest.run.config.data.batch_size, trainer.progress),
        CheckpointCallback(stop),
    ]
    device = longest.parts.device
    with group_of(others, Task.of(members), device) as (ranks, ranks_of_stream):
        for member in members:
            share_out(member.training, trainer, ranks, device)
        stream = make_stream(longest.run, longest.parts, points, caches, ranks_of_stream)
        together = [] if ranks.is_alone else [TogetherCallback(ranks)]
        fit(members, stream, [*callbacks, *together], stop, trainer, ranks)
        gather_trained(members)
    del stream, callbacks  # the window's memory, before anything is measured
    trained = [member for member in members if not member.has_ended]
    if stop.signal is not None and not any(member.is_training for member in trained):
        signal.raise_signal(stop.signal)  # it came with the last step: whoever was there before us handles it
    if any(member.is_training for member in trained):
        for member in trained:
            with member.guarded():
                member.give_way(f"stopped by {stop.name}")
        return
    finish(trained)


def _validations(members: Sequence[RunInTraining]) -> dict[RunInTraining, Validation]:
    """Of each member; the same one for those that can be measured together."""
    made: dict[tuple[Any, ...], Validation] = {}
    found: dict[RunInTraining, Validation] = {}
    for member in members:
        config, trainer = member.run.config, member.run.config.trainer
        if trainer.validate_every_steps is None:
            continue
        batch_size = min(config.lm.batch_size, config.eval.batch_size)  # beside training there is less memory
        key = (member.point, trainer.validate_every_steps, trainer.validation_tokens, batch_size)
        if key not in made:
            made[key] = Validation(
                member.parts.lm,
                member.parts.held_out,
                member.point.scale,
                every=trainer.validate_every_steps,
                tokens=trainer.validation_tokens,
                batch_size=batch_size,
            )
        found[member] = made[key]
    return found
