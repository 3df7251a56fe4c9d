"""Measures SAEs in groups: an LM is loaded once for all its hook points, and those of one hook point share its
forwards, a few SAEs at a time.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from masked_sae.activations.lm import LM
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.evals.context import EvalContext
from masked_sae.interop.loading import load_sae
from masked_sae.masks.run_masks import kept_share
from masked_sae.runs.config_file import write_config
from masked_sae.runs.lock import HeldError, hold
from masked_sae.runs.results import write_results
from masked_sae.runs.run import Run, find_inputs
from masked_sae.runs.state import RunState, read_state, write_state
from masked_sae.saes import InferenceSAE
from masked_sae.text.corpus import find_corpus, tokens_needed
from masked_sae.tracking.run_tracker import begin_tracking
from masked_sae.training.assemble import find_device, load_lm_and_text
from masked_sae.training.evaluation import evaluate_all, forget, make_context, unmeasured
from masked_sae.training.threads import own_threads, use_threads

_AT_ONCE = 8  # SAEs in memory


def measure_runs(runs: Sequence[Run], *, force: bool, tolerant: bool, progress: bool) -> None:
    """Measures what is missing of each run into its folder. One that another process is at is left to it, and named.

    Args:
        force: what is there is measured again.
        tolerant: a run whose files are damaged is named, and the others are measured.

    Raises:
        InputError, DamagedFileError: of a run that cannot be measured; those beside it in its group have been.
    """
    pending = {run.folder.path.resolve(): run for run in runs}.values()
    with tqdm(total=len(pending), desc="SAEs", leave=False, disable=not progress or len(pending) < 2) as bar:

        def done(run: Run, error: Exception | None) -> None:
            bar.update()
            if isinstance(error, HeldError) or (tolerant and isinstance(error, DamagedFileError)):
                print(error)
            elif error is not None:
                raise error

        lacking: list[Run] = []
        for run in pending:
            if force or unmeasured(run.folder, run.config.eval):
                lacking.append(run)
            else:  # the results alone are gone, or damaged
                done(run, _rewritten(run))
        for of_one_lm in _alike(lacking, _lm_and_text):
            _measure_on_one_lm(of_one_lm, force, done)


def _rewritten(run: Run) -> Exception | None:
    try:
        with hold(run.folder.lock):
            write_results(run.folder, run.settings)
    except (HeldError, DamagedFileError) as error:
        return error
    return None


def _alike(runs: Sequence[Run], key: Callable[[Run], Any]) -> list[list[Run]]:
    """Groups of runs with the same key, in the order of their first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(key(run), sort_keys=True), []).append(run)
    return list(groups.values())


def _lm_and_text(run: Run) -> Any:
    """What tells LM, special tokens and held-out sequences."""
    config, data = run.config, run.config.data
    needed = tokens_needed(data, kept_share(config.mask))
    corpus = find_corpus(data, needed, config.digest_memory, progress=config.trainer.progress).content
    lm = asdict(config.lm) | {"hook_name": None}
    return [lm, config.trainer.device, corpus, data.store_dir, data.validation_share, data.context_length]


def _hook_point_and_settings(run: Run) -> Any:
    config = run.config
    threads = config.trainer.threads or own_threads(run.folder, None)
    return [config.lm.hook_name, asdict(config.eval), threads]


def _measure_on_one_lm(runs: Sequence[Run], force: bool, done: Callable[[Run, Exception | None], None]) -> None:
    device = find_device(runs[0].config.trainer.device)
    use_threads(runs[0].folder, runs[0].config.trainer.threads)
    found = load_lm_and_text(runs[0].config, find_inputs(runs[0].config), device)
    context: EvalContext | None = None
    for alike in _alike(runs, _hook_point_and_settings):
        config = alike[0].config
        context = make_context(config, found.lm.at(config.lm.hook_name), found.held_out, beside=context)
        for first in range(0, len(alike), _AT_ONCE):
            group = alike[first : first + _AT_ONCE]
            for run, error in zip(group, _measure_together(group, context, device, force), strict=True):
                done(run, error)


def _measure_together(
    runs: Sequence[Run], context: EvalContext, device: torch.device, force: bool
) -> list[Exception | None]:
    """What kept each of them from being measured; None of those that are."""
    errors: dict[int, Exception] = {}
    saes: dict[int, InferenceSAE] = {}
    with ExitStack() as locks:
        for place, run in enumerate(runs):
            try:
                saes[place] = _held(run, context.lm, device, force, locks)
            except Exception as error:  # noqa: BLE001
                errors[place] = error
        held = [runs[place] for place in saes]
        measured = evaluate_all(held, list(saes.values()), context, [None] * len(held))
        for place, metrics in zip(saes, measured, strict=True):
            try:
                _conclude(runs[place], metrics)
            except Exception as error:  # noqa: BLE001
                errors[place] = error
    return [errors.get(place) for place in range(len(runs))]


def _held(run: Run, lm: LM, device: torch.device, force: bool, locks: ExitStack) -> InferenceSAE:
    """The run's SAE, and its folder for as long as the locks are held."""
    config = run.config
    use_threads(run.folder, config.trainer.threads)
    sae, _ = load_sae(run.sae, config.digest_memory)
    if sae.d_in != lm.d_in:
        valid = f"an SAE for the {lm.d_in} dimensions of {config.lm.name} at {config.lm.hook_name}"
        raise InputError("sae", run.sae, f"{valid}: this one has {sae.d_in}")
    run.folder.path.mkdir(parents=True, exist_ok=True)
    locks.enter_context(hold(run.folder.lock))
    if force:
        forget(run.folder, config.eval.families)
    if run.origin is not None:
        write_config(run.folder.config, run.settings)
    return sae.to(device)


def _conclude(run: Run, metrics: dict[str, float] | Exception) -> None:
    if isinstance(metrics, Exception):
        raise metrics
    if run.origin is None:
        _summarize(run, metrics)
    else:
        write_state(run.folder.state, RunState(run.folder.run_id, "created"), status="done")


def _summarize(run: Run, metrics: dict[str, float]) -> None:
    """Into the run's W&B run."""
    try:
        state = read_state(run.folder.state)
    except DamagedFileError as error:
        print(f"{run.folder.run_id}: measured, but not told to W&B: {error}")
        return
    if state is None:
        return
    tracker = begin_tracking(run, state.step, resumes=True)
    if tracker is not None:
        tracker.conclude(metrics, state.tokens, run.folder)
        tracker.finish(failed=False)
