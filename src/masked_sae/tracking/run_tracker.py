"""A run in W&B: offline where it must be, and never the end of a training."""

import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masked_sae.config import WandbSettings
from masked_sae.errors import DamagedFileError
from masked_sae.runs.curve import COLUMNS, VALIDATED, Row, read_rows
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import Run
from masked_sae.runs.state import read_state
from masked_sae.tracking.server import log_in, wandb_id, why_unreachable
from masked_sae.tracking.tables import as_histogram, evaluation_tables

if TYPE_CHECKING:
    import wandb

_FINISH_SECONDS = "60"  # without an end to it, a run whose server has gone waits for hours


class RunTracker:
    """A run in W&B. Logs until W&B fails, then warns once and falls silent: training goes on.

    Args:
        settings: of `wandb.init`. Under an agent of a W&B sweep the run's id and project are the agent's.
        keeps_sae: uploads the SAE at the end.
    """

    def __init__(self, settings: Mapping[str, Any], *, keeps_sae: bool = False) -> None:
        own = ("id", "project", "entity") if os.environ.get("WANDB_SWEEP_ID") else ()
        self._settings = {key: value for key, value in settings.items() if key not in own}
        self._keeps_sae = keeps_sae
        self._run: wandb.Run | None = None
        self._logged_until = -1
        self._failed = False

    def begin(self, earlier: Sequence[Row] = ()) -> None:
        """Starts the W&B run, with tokens as the x axis of everything.

        Of the curve of earlier attempts it gets what W&B's server has not. An offline session knows no server and gets
        the whole, since a killed session lacks what was not yet written: it takes the place of those before it.
        """

        def start() -> None:
            import wandb

            run = self._run = wandb.init(**self._settings)
            run.define_metric("tokens", hidden=True)
            run.define_metric("*", step_metric="tokens")
            for name, column in (COLUMNS | VALIDATED).items():
                if column.best != "last":  # W&B's own rule
                    run.define_metric(shown_as(name), step_metric="tokens", summary=f"{column.best},last")
            self._logged_until = run.step - 1  # of what the server has

        self._forgive(start)
        for row in earlier:
            self.log_row(row)
        self._forgive(self._remove_older_offline_sessions)

    def log_row(self, row: Row) -> None:
        """A sink for what is measured in training; each step is logged once, however often a run is resumed."""
        if row.step <= self._logged_until:
            return

        def log() -> None:
            payload: dict[str, Any] = {shown_as(key): value for key, value in row.metrics.items() if key != "step"}
            payload |= {name: as_histogram(histogram) for name, histogram in row.histograms.items()}
            self._began().log(payload, step=row.step, commit=True)  # a row that is committed survives a kill

        self._forgive(log)

    def conclude(self, results: Mapping[str, float], tokens: int, folder: RunFolder) -> None:
        """Final metrics into the run's summary, their details as tables and histograms, and the SAE if asked for."""

        def summarize() -> None:
            self._began().summary.update(dict(results))

        def keep_sae() -> None:
            from wandb import Artifact

            artifact = Artifact(wandb_id("sae", folder.run_id), type="model", metadata=dict(results))
            artifact.add_dir(str(folder.sae.resolve()), policy="immutable")  # no copy: it will not change
            self._began().log_artifact(artifact)

        def detail() -> None:
            if tables := evaluation_tables(folder.evals):
                self._began().log({"tokens": tokens, **tables}, commit=True)

        self._forgive(summarize)
        if self._keeps_sae:
            self._forgive(keep_sae)
        self._forgive(detail)

    def show(self, objects: Mapping[str, Any]) -> None:
        """W&B's own objects: tables, plots."""

        def log() -> None:
            self._began().log(dict(objects), commit=True)

        self._forgive(log)

    def note_preemption(self) -> None:
        """Has a W&B sweep hand the run out again."""

        def mark() -> None:
            self._began().mark_preempting()

        self._forgive(mark)

    def finish(self, failed: bool) -> None:
        """Ends the W&B run, with what it has not yet written."""

        def finish() -> None:
            self._began().finish(exit_code=int(failed))

        if self._run is not None:
            self._failed = False  # what could not log something can still end
            self._forgive(finish)

    def _began(self) -> "wandb.Run":
        assert self._run is not None
        return self._run

    def _remove_older_offline_sessions(self) -> None:
        ours = Path(self._began().dir).parent.resolve()
        for session in ours.parent.glob(f"offline-run-*-{self._began().id}"):
            if session != ours:
                shutil.rmtree(session, ignore_errors=True)

    def _forgive(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in W&B, training goes on
            self._failed = True
            warnings.warn(f"W&B logging stops here, training goes on: {error}", stacklevel=3)


def begin_tracking(run: Run, until: int, *, resumes: bool) -> RunTracker | None:
    """A run's W&B run, begun, with its curve up to a step; None where W&B is disabled."""
    folder = run.folder
    tracker = track_run(
        run.config.logger.wandb,
        run_id=_began_as(folder),
        name=folder.run_id,
        group=run.config.name,
        folder=folder.path,
        config=run.settings,
        resumes=resumes,
    )
    if tracker is not None:
        tracker.begin(read_rows(folder.metrics, folder.histograms, until))
    return tracker


def _began_as(folder: RunFolder) -> str:
    """The id that its W&B run is called by: the one it began under."""
    try:
        state = read_state(folder.state)
    except DamagedFileError:
        state = None
    return (state and state.former_id) or folder.run_id


def track_run(
    settings: WandbSettings,
    *,
    run_id: str,
    group: str,
    folder: Path,
    config: Mapping[str, Any],
    resumes: bool,
    name: str | None = None,
) -> RunTracker | None:
    """The run in W&B, not yet begun; None where W&B is disabled.

    The W&B id follows from group and run id, so a run that is resumed goes on in the same W&B run, also one that was
    stopped before its first checkpoint; any other starts it over.
    """
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", _FINISH_SECONDS)  # read by W&B at its first use
    mode = _resolve(settings.mode)
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    folder.mkdir(parents=True, exist_ok=True)
    resumes = resumes or any((folder / "wandb").glob("run-*"))  # an online session, of which the server has steps
    wandb_settings: dict[str, Any] = {
        "project": settings.project,
        "entity": settings.entity,
        "id": wandb_id(group, run_id),
        "name": name or run_id,
        "group": group,
        "tags": list(settings.tags),
        "dir": str(folder),
        "config": dict(config),
        "mode": mode,
        "resume": "allow" if resumes and mode == "online" else None,  # None: overwrites a run of this id
        "reinit": "create_new",
    }
    return RunTracker(wandb_settings, keeps_sae=settings.artifact)


def shown_as(name: str) -> str:
    """A column of the curve as W&B has it."""
    return name if name == "tokens" or "/" in name else f"train/{name}"


def _resolve(mode: str) -> str:
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE")
    if asked in ("online", "offline", "disabled"):
        return asked
    reason = _why_offline()
    if reason is None:
        return "online"
    say_offline(reason)
    return "offline"


@cache
def say_offline(reason: str) -> None:
    """Once for all runs of a process."""
    print(f"W&B: offline, {reason}; `wandb sync` uploads runs later")


def _why_offline() -> str | None:
    try:
        server, logged_in = log_in()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in W&B, training goes on
        return f"as W&B refuses ({' '.join(str(error).split())})"
    if not logged_in:
        return "as nobody is logged in (`wandb login`)"
    reason = why_unreachable(server)
    return None if reason is None else f"as {reason}"
