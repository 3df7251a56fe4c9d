"""What `python -m src.evaluate` does: finds the SAEs, has them measured, and prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from masked_sae.config import RunConfig, check_measuring, recorded_config
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.evals.texts.task_settings import check_tasks
from masked_sae.interop.loading import digest_of, find_sae, is_folder
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder, run_folder_of
from masked_sae.runs.recorded import change, keys_of, recorded_run, refused_in_a_line
from masked_sae.runs.results import REFERENCE, is_old_reference, read_results
from masked_sae.runs.run import Run
from masked_sae.runs.state import read_state
from masked_sae.runs.sweep_record import read_members
from masked_sae.sweeps.measure import measure_runs
from masked_sae.sweeps.references import describe, origin_of, place_of, readable, trimmed
from masked_sae.sweeps.summary import print_members
from masked_sae.tracking.sweep import log_sweep
from masked_sae.training.evaluation import unmeasured


def evaluate_folders(kind: str, folders: Sequence[str | Path], settings: RunConfig, overrides: Sequence[str]) -> None:
    """Measures what `sae=` or `sweep=` names and prints the results.

    Args:
        kind: `sae` or `sweep`.
        folders: of a sweep, each exists; of an SAE, also what `find_sae` finds.
        settings: of the command: defaults and overrides.
        overrides: what stood on the command line.

    Raises:
        InputError: a folder holds no SAE, or its LM or text cannot be used.
    """
    check_tasks(settings.eval.tasks)
    found = [run for folder in folders for run in _find(kind, folder, settings, overrides)]
    pending = [run for run in found if settings.force or _is_pending(run)]
    progress = settings.trainer.progress
    measure_runs(pending, force=settings.force, tolerant=kind == "sweep", progress=progress)
    shown = [run for run in (found if kind == "sweep" else pending) if run.origin is None]
    for sweep, settings_there in {run.folder.path.parent: run.config.logger.wandb for run in shown}.items():
        log_sweep(sweep, settings_there)
    print_members(found)
    if len(found) == 1:
        _print_metrics(found[0].folder, found[0].config.eval.families)


def _find(kind: str, folder: str | Path, settings: RunConfig, overrides: Sequence[str]) -> list[Run]:
    if kind == "sae":
        return [_find_run(folder, settings, overrides)]
    members = read_members(Path(folder))
    if not members:
        raise InputError("sweep", folder, "a sweep's folder, such as runs/mask_rate")
    found: list[Run] = []
    for member in members:
        there = member.folder
        if not (there.sae / "cfg.json").exists() and origin_of(there) is None:
            print(f"left out: {there.run_id}: {_why_unmeasurable(there)}")
            continue
        try:
            found.append(_find_run(there.path, settings, overrides))
        except (InputError, DamagedFileError) as error:
            print(f"left out: {there.run_id}: {error}")
    if not found:
        raise InputError("sweep", folder, "a sweep that has SAEs to measure")
    return found


def _why_unmeasurable(folder: RunFolder) -> str:
    try:
        state = read_state(folder.state)
    except DamagedFileError as error:
        return str(error)
    if is_old_reference(folder, state):
        return "an SAE from elsewhere, by an earlier version: sae=FOLDER, its own folder, measures it anew"
    status = "missing" if state is None else state.status
    return f"{status}, without an SAE yet"


def _find_run(source: str | Path, settings: RunConfig, overrides: Sequence[str]) -> Run:
    """Of a run's folder, its sae/ folder, an SAE from elsewhere, or the folder that one was measured into."""
    if not is_folder(source):
        return _find_foreign(source, settings, overrides)
    folder = Path(source).expanduser()
    run = run_folder_of(folder)
    if not run.config.exists():
        return _find_foreign(source, settings, overrides)
    origin = origin_of(run)
    if origin is not None:
        there = _found_again(run, origin, settings)
        return _reference_in(run, read_config(run.config), settings, overrides, there)
    if not run.sae.is_dir():
        raise InputError("sae", folder, "a run that is done: this one has no SAE yet")
    return recorded_run("sae", run, settings, overrides)


def _find_foreign(source: str | Path, settings: RunConfig, overrides: Sequence[str]) -> Run:
    found = find_sae(source)
    record = describe(found, settings, keys_of(overrides))
    place = place_of(found, record, settings)
    return _reference_in(place, OmegaConf.create(record), settings, overrides, found.folder)


def _found_again(folder: RunFolder, origin: str, settings: RunConfig) -> Path:
    """The folder of an SAE that was measured before. Refuses to add to that what another SAE would measure."""
    try:
        found = find_sae(origin).folder
        digest = digest_of(found, settings.digest_memory)
    except (InputError, OSError):
        raise InputError("sae", folder.path, f"an evaluation whose SAE is still in {origin}") from None
    stored: Any = OmegaConf.to_container(OmegaConf.load(folder.config))
    if stored[REFERENCE].get("digest") != digest:
        valid = f"an evaluation of what is in {origin}: that has changed since; sae={origin} measures it anew"
        raise InputError("sae", folder.path, valid)
    return found


def _reference_in(
    folder: RunFolder, stored: DictConfig, settings: RunConfig, overrides: Sequence[str], origin: Path
) -> Run:
    """An SAE from elsewhere, with the configuration that is recorded of it."""
    with refused_in_a_line("sae", folder.config):
        change(stored, settings, overrides)
        record = trimmed(cast("dict[str, Any]", OmegaConf.to_container(stored, resolve=True)))
        config = recorded_config(OmegaConf.create(readable(record, settings)), settings, {})
        config.trainer.progress = settings.trainer.progress
    check_measuring(config)
    return Run(folder, {}, config, origin=origin, on_record=record)


def _is_pending(run: Run) -> bool:
    """Whether something is not measured, or cannot be read; which it is shows when it is measured."""
    try:
        if unmeasured(run.folder, run.config.eval):
            return True
        read_results(run.folder)
    except (FileNotFoundError, DamagedFileError):
        return True
    return False


def _print_metrics(folder: RunFolder, families: Sequence[str]) -> None:
    if not folder.results.exists():
        return
    metrics = read_results(folder).metrics
    print(f"\n{folder.path}")
    for family in families:
        for key, value in metrics.items():
            if key.startswith(f"{family}/"):
                print(f"  {key:44}{value:12.4f}")
