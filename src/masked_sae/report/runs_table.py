"""Run folders, read into one table: also those of runs that failed, were not finished, or are gone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from masked_sae.config import all_settings
from masked_sae.errors import InputError
from masked_sae.masks.run_masks import effective_of_recorded
from masked_sae.report.catalogue import Catalogue, Metric, our_catalogue, read_words
from masked_sae.runs.curve import read_metrics
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import DEAD_AFTER_SECONDS, silence
from masked_sae.runs.state import RunState, read_state
from masked_sae.runs.sweep_record import MEMBERS, Member, read_commands, read_members

STATE_COLUMNS = ("step", "steps", "tokens", "seconds", "tokens_per_second", "created", "updated")
ABOUT_COLUMNS = ("sweep", "run_id", "status", "reason", "folder", *STATE_COLUMNS)


@dataclass(frozen=True)
class Runs:
    """Attributes:
    table: one row for each member; columns `ABOUT_COLUMNS`, then settings (`sae.k`), then metrics (`core/l0`).
        `status` is `done` for those whose results could be read, and for no other.
    settings, metrics: the names of those columns.
    masks: what hid anything in each row's run, as the masks say: settings by dotted key. None where it is not known.
    words: of the settings, by key: label, unit, and whether it makes SAEs sparse.
    catalogue: the words of the metrics.
    commands: that the runs are of, as far as their sweeps have recorded them.
    """

    table: pd.DataFrame
    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    masks: "pd.Series[Any]"
    words: Mapping[str, Mapping[str, Any]]
    catalogue: Catalogue
    commands: tuple[tuple[str, ...], ...]

    @property
    def labels(self) -> dict[str, str]:
        """What keys are called, where it is not their last part."""
        return {key: words["label"] for key, words in self.words.items() if words.get("label")}

    @property
    def sparsity(self) -> tuple[str, ...]:
        """The keys that make SAEs sparser or less so."""
        return tuple(key for key, words in self.words.items() if words.get("sparsity"))

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
    found = [_read(sweep, member) for sweep in sweeps for member in _members(sweep)]
    settings = tuple(dict.fromkeys(key for one in found for key in one.configuration))
    metrics = tuple(dict.fromkeys(key for one in found for key in one.metrics))
    rows = [{**one.configuration, **one.metrics, **one.about} for one in found]
    table = pd.DataFrame(rows, columns=[*ABOUT_COLUMNS, *settings, *metrics])
    table[list(metrics)] = table[list(metrics)].astype("float64")
    words = {**all_settings()}
    own: dict[str, Metric] = {}
    for one in found:
        words |= one.words
        own |= one.called
    return Runs(
        table,
        settings,
        metrics,
        pd.Series([one.masks for one in found], index=table.index, dtype=object),
        words,
        replace(our_catalogue(), own=own),
        tuple(tuple(command) for sweep in sweeps for command in _commands(sweep)),
    )


def read_curve(folder: Path) -> pd.DataFrame:
    """A run's training curve, without what cannot be read of it; empty where that is all."""
    try:
        curve = pd.DataFrame(read_metrics(RunFolder(folder).metrics))
    except (OSError, ValueError):
        return pd.DataFrame()
    return curve if "tokens" in curve else pd.DataFrame()


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
    found = [*members, *(Member(RunFolder(path), {}) for path in elsewhere)]
    if not found:
        raise InputError("sweep", sweep, "a folder that holds runs, such as runs/mask_rate")
    return found


def _commands(sweep: Path) -> list[list[str]]:
    return [] if RunFolder(sweep).results.exists() else read_commands(sweep)


@dataclass(frozen=True)
class _Member:
    """Attributes:
    about: `ABOUT_COLUMNS`.
    configuration: flat.
    masks: see `Runs`.
    words, called: of a user's own settings and metrics, as the results tell.
    """

    about: Mapping[str, Any]
    configuration: Mapping[str, Any]
    masks: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    words: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    called: Mapping[str, Metric] = field(default_factory=dict[str, Metric])


def _read(sweep: Path, member: Member) -> _Member:
    folder = member.folder
    about: dict[str, Any] = {"sweep": sweep.name, "run_id": folder.run_id, "folder": str(folder.path)}
    if not folder.path.is_dir():
        return _Member(about | {"status": "missing", "reason": "its folder is gone"}, _as_settings(member.swept))
    try:
        state = read_state(folder.state)
    except (OSError, ValueError, TypeError) as error:
        state, about["reason"] = None, f"state.json cannot be read ({_short(error)})"
    if state is not None:
        about |= {name: getattr(state, name) for name in STATE_COLUMNS}
    try:
        results = json.loads(folder.results.read_text(encoding="utf-8"))
        metrics = _numbers(results["metrics"])
        nested, own = dict(results.get("config") or {}), dict(results.get("own") or {})
        configuration = dict(flat(nested)) or _settings_of(member)
        masks = _effective(nested.get("mask"), own.get("masks", {}))
        words, called = {key: dict(one) for key, one in own.get("settings", {}).items()}, read_words(own)
    except FileNotFoundError:
        return _Member(about | _why_unfinished(folder, state, about.get("reason")), _settings_of(member))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"results.json cannot be read ({_short(error)})"
        return _Member(about | {"status": "damaged", "reason": reason}, _settings_of(member))
    if not metrics:
        reason = "trained, but no metric was measured; python -m src.evaluate does so"
        return _Member(about | {"status": "not measured", "reason": reason}, configuration)
    return _Member(about | {"status": "done"}, configuration, masks, metrics, words, called)


def _effective(masks: Any, own: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of a run's masks as far as they matter; of a mask that nobody knows all of them do."""
    if not isinstance(masks, Mapping):
        return None
    matter: dict[str, Any] = {}
    for name, values in masks.items():
        settings = own[name]["effective"] if name in own else effective_of_recorded(name, values)
        matter |= {f"mask.{name}.{key}": value for key, value in settings.items()}
    return matter


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
    except (OSError, ValueError, TypeError, AttributeError, YAMLError, OmegaConfBaseException):
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


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
