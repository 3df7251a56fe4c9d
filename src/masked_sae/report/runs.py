"""Run folders, read into one table: also those of runs that failed, were not finished, or are gone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from masked_sae.errors import InputError
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import DEAD_AFTER_SECONDS, silence
from masked_sae.runs.members import MEMBERS, Member, read_members
from masked_sae.runs.state import RunState, read_state

STATE_COLUMNS = ("step", "steps", "tokens", "seconds", "tokens_per_second", "created", "updated")
ABOUT_COLUMNS = ("sweep", "run_id", "status", "reason", "folder", *STATE_COLUMNS)


@dataclass(frozen=True)
class Runs:
    """Attributes:
    table: one row for each member; columns `ABOUT_COLUMNS`, then settings (`sae.k`), then metrics (`core/l0`).
        `status` is `done` for those whose results could be read, and for no other.
    settings, metrics: the names of those columns.
    swept: the keys that the sweeps varied, as their commands say.
    """

    table: pd.DataFrame
    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    swept: tuple[str, ...]

    @property
    def measured(self) -> pd.DataFrame:
        return self.table[self.table["status"] == "done"]

    @property
    def unfinished(self) -> pd.DataFrame:
        return self.table[self.table["status"] != "done"]


def read_runs(sweeps: Sequence[Path]) -> Runs:
    """Reads the members of the sweeps.

    Raises:
        InputError: a folder is none, its record cannot be read, or it holds no runs.
    """
    rows: list[dict[str, Any]] = []
    settings: dict[str, None] = {}
    metrics: dict[str, None] = {}
    swept: dict[str, None] = {}
    for sweep in sweeps:
        members = _members(sweep)
        if not members:
            raise InputError("sweep", sweep, "a folder that holds runs, such as runs/mask_rate")
        for member in members:
            about, configuration, measured = _read(sweep, member)
            rows.append({**configuration, **measured, **about})
            settings.update(dict.fromkeys(configuration))
            metrics.update(dict.fromkeys(measured))
            swept.update(dict.fromkeys(member.swept))
    table = pd.DataFrame(rows, columns=[*ABOUT_COLUMNS, *settings, *metrics])
    table[list(metrics)] = table[list(metrics)].astype("float64")
    return Runs(table, tuple(settings), tuple(metrics), tuple(swept))


def read_curve(folder: Path) -> pd.DataFrame:
    """A run's training curve; empty where there is none that can be read."""
    try:
        curve = pd.read_csv(RunFolder(folder).metrics, on_bad_lines="skip")
    except (OSError, ValueError):
        return pd.DataFrame()
    curve = curve.apply(pd.to_numeric, errors="coerce")
    return curve.dropna(subset=["tokens"]) if "tokens" in curve else pd.DataFrame()


def _members(sweep: Path) -> list[Member]:
    if not sweep.is_dir():
        raise InputError("sweep", sweep, "a sweep's folder, such as runs/mask_rate")
    if RunFolder(sweep).results.exists():
        return [Member(RunFolder(sweep), {})]
    try:
        members = read_members(sweep)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("sweep", sweep, f"a folder whose {MEMBERS} can be read ({error})") from error
    known = {member.folder.run_id for member in members}
    elsewhere = sorted(path.parent for path in sweep.glob("*/results.json") if path.parent.name not in known)
    return [*members, *(Member(RunFolder(path), {}) for path in elsewhere)]


def _read(sweep: Path, member: Member) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    folder = member.folder
    about: dict[str, Any] = {"sweep": sweep.name, "run_id": folder.run_id, "folder": str(folder.path)}
    if not folder.path.is_dir():
        return about | {"status": "missing", "reason": "its folder is gone"}, _as_settings(member.swept), {}
    try:
        state = read_state(folder.state)
    except (OSError, ValueError, TypeError) as error:
        state, about["reason"] = None, f"state.json cannot be read ({_one_line(error)})"
    if state is not None:
        about |= {name: getattr(state, name) for name in STATE_COLUMNS}
    try:
        results = json.loads(folder.results.read_text(encoding="utf-8"))
        metrics = _numbers(results["metrics"])
        configuration = dict(flat(results.get("config") or {}))
    except FileNotFoundError:
        return about | _why_unfinished(folder, state, about.get("reason")), _settings_of(member), {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"results.json cannot be read ({_one_line(error)})"
        return about | {"status": "damaged", "reason": reason}, _settings_of(member), {}
    if not metrics:
        reason = "trained, but no metric was measured; python -m src.evaluate does so"
        return about | {"status": "not measured", "reason": reason}, configuration or _settings_of(member), {}
    return about | {"status": "done"}, configuration or _settings_of(member), metrics


def _why_unfinished(folder: RunFolder, state: RunState | None, damage: str | None) -> dict[str, str]:
    if state is None:
        return {"status": "damaged" if damage else "missing", "reason": damage or "no results"}
    progress = f"{state.step:,} of {state.steps:,} steps" if state.steps else "no step done"
    if state.status == "done":
        return {"status": "damaged", "reason": "done, but its results.json is gone"}
    if state.status == "running" and silence(folder.lock, state.updated).total_seconds() > DEAD_AFTER_SECONDS:
        progress += f"; no sign of life since {state.updated}: its process is probably gone"
    reason = f"{state.error} ({progress})" if state.error else progress
    return {"status": state.status, "reason": reason}


def _settings_of(member: Member) -> dict[str, Any]:
    """From the run's own file; where that cannot be read, what the sweep says of it."""
    try:
        read: Any = OmegaConf.to_container(OmegaConf.load(member.folder.config))
        return dict(flat(read))
    except (OSError, ValueError, AttributeError, YAMLError, OmegaConfBaseException):
        return _as_settings(member.swept)


def _as_settings(swept: Mapping[str, str]) -> dict[str, Any]:
    return {key: _parsed(text) for key, text in swept.items()}


def _parsed(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics that are numbers; what could not be measured (null, a note) is left out."""
    return {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
