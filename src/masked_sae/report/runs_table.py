"""Run folders, read into one table: also those of runs that failed, were not finished, or are gone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from masked_sae.bundled import command_name
from masked_sae.config import all_settings
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.masks.run_masks import effective_of_recorded
from masked_sae.report.catalogue import Catalogue, Metric, our_catalogue, read_words
from masked_sae.report.training_curves import TrainingCurve, read_curve
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import DEAD_AFTER_SECONDS, silence
from masked_sae.runs.results import Results, check_values, is_old_reference, read_family_file, read_results
from masked_sae.runs.state import RunState, read_state
from masked_sae.runs.sweep_record import Member, damage_of, read_commands, read_members
from masked_sae.settings import is_neutral

STATE_COLUMNS = ("step", "steps", "tokens", "seconds", "tokens_per_second", "created", "updated")
ABOUT_COLUMNS = ("sweep", "run_id", "status", "reason", "folder", *STATE_COLUMNS)
REFERENCE = "reference"  # the state of an SAE from elsewhere
_TIMES = ("created", "updated")
_LARGEST = 2**53  # of what a state counts
_OF_MEASURING = ("lm.", "data.", "eval.", "trainer.")  # keys that hold of what an earlier version measured
_OF_TRAINING = ("batch_size", "train_tokens", "window_tokens", "scale_tokens", "max_epochs")  # under `data`


@dataclass(frozen=True)
class Runs:
    """Attributes:
    table: one row for each member; columns `ABOUT_COLUMNS`, then settings (`sae.k`), then metrics (`core/l0`).
        `status` is `done` for those whose results could be read, and for no other; `reference` for SAEs from
        elsewhere, which are shown beside the runs and are in no design, mean or test.
    settings, metrics: the names of those columns.
    masks: what hid anything in each row's run, as the masks say: settings by dotted key. None where it is not known.
    words: of the settings, by key: label, unit, whether it makes SAEs sparse, and whether it is a cure.
    catalogue: the words of the metrics.
    commands: that the runs are of, as far as their sweeps have recorded them.
    notes: what could not be measured, or not as asked, with the runs of which that is said.
    damage: files that could not be read in whole, and what is wrong with them.
    """

    table: pd.DataFrame
    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    masks: "pd.Series[Any]"
    words: Mapping[str, Mapping[str, Any]]
    catalogue: Catalogue
    commands: tuple[tuple[str, ...], ...]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    damage: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        """What keys are called, where it is not their last part."""
        return {key: words["label"] for key, words in self.words.items() if words.get("label")}

    @property
    def sparsity(self) -> tuple[str, ...]:
        """The keys that make SAEs sparser or less so."""
        return tuple(key for key, words in self.words.items() if words.get("sparsity"))

    @property
    def cures(self) -> "pd.DataFrame":
        """What is set of each row's run beside masks to cure what they are to cure: by key; None where nothing is."""
        keys = [key for key in self.settings if self.words.get(key, {}).get("cure")]
        found = {key: [None if _is_off(value, self.words[key]) else value for value in self.table[key]] for key in keys}
        return pd.DataFrame(found, index=self.table.index, dtype=object)

    @property
    def measured(self) -> pd.DataFrame:
        return self.table[self.table["status"] == "done"]

    @property
    def unfinished(self) -> pd.DataFrame:
        return self.table[~self.table["status"].isin(["done", REFERENCE])]

    @property
    def references(self) -> pd.DataFrame:
        return self.table[self.table["status"] == REFERENCE]

    @property
    def own(self) -> pd.DataFrame:
        """All but the references."""
        return self.table[self.table["status"] != REFERENCE]

    @property
    def measured_metrics(self) -> list[str]:
        """Those that some run has, and not a reference alone."""
        return [key for key in self.metrics if self.own[key].notna().any()]

    @cached_property
    def curves(self) -> Mapping[Any, TrainingCurve]:
        """By the table's index."""
        return {index: read_curve(Path(folder)) for index, folder in self.table["folder"].items()}


def read_runs(sweeps: Sequence[Path]) -> Runs:
    """Reads the members of the sweeps.

    Raises:
        InputError: a folder is none, its record cannot be read, or it holds no runs.
    """
    recorded = [(sweep, _recorded(sweep)) for sweep in sweeps]
    found = [_read(sweep, member) for sweep, record in recorded for member in record.members]
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
        tuple(command for _, record in recorded for command in record.commands),
        _gathered(found),
        tuple(
            dict.fromkeys(
                [*(one for _, record in recorded for one in record.damage), *(d for one in found for d in one.damage)]
            )
        ),
    )


def _is_off(value: Any, words: Mapping[str, Any]) -> bool:
    """Whether a setting is not there, or as good as not there."""
    return value is None or value != value or is_neutral(value, words)


def _gathered(found: "Sequence[_Member]") -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for one in found:
        for key, note in one.notes.items():
            notes.setdefault(f"{key}: {note}", []).append(str(one.about["run_id"]))
    return notes


@dataclass(frozen=True)
class _Record:
    """Of a sweep.

    Attributes:
        damage: what of it could not be read; its members are then those that lie in its folder.
    """

    members: Sequence[Member]
    commands: Sequence[tuple[str, ...]]
    damage: Sequence[str] = ()


def _recorded(sweep: Path) -> _Record:
    if not sweep.is_dir():
        raise InputError("sweep", sweep, "a sweep's folder, such as runs/mask_rate")
    if RunFolder(sweep).results.exists():
        return _Record([Member(RunFolder(sweep), {})], [])
    members, damaged = read_members(sweep), damage_of(sweep)
    damage = [] if damaged is None else [str(damaged)]
    known = {member.folder.run_id for member in members}
    lying = {path.parent for path in sweep.glob("*/results.json")}
    elsewhere = sorted(path for path in lying if path.name not in known)
    found = [*members, *(Member(RunFolder(path), {}) for path in elsewhere)]
    if not found:
        valid = "a folder that holds runs, such as runs/mask_rate" + "".join(f" ({one})" for one in damage)
        raise InputError("sweep", sweep, valid)
    return _Record(found, [tuple(command) for command in read_commands(sweep)], damage)


def _said(path: Path, error: BaseException) -> str:
    """What is wrong with a file, in a line that names it."""
    return str(error) if isinstance(error, DamagedFileError) else f"{path} is damaged ({_short(error)})"


@dataclass(frozen=True)
class _Member:
    """Attributes:
    about: `ABOUT_COLUMNS`.
    configuration: flat.
    masks: see `Runs`.
    words, called: of a user's own settings and metrics, as the results tell.
    notes: by metric.
    damage: see `Runs`.
    """

    about: Mapping[str, Any]
    configuration: Mapping[str, Any]
    masks: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    words: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    called: Mapping[str, Metric] = field(default_factory=dict[str, Metric])
    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    damage: tuple[str, ...] = ()


def _read(sweep: Path, member: Member) -> _Member:
    folder = member.folder
    about: dict[str, Any] = {"sweep": sweep.name, "run_id": folder.run_id, "folder": str(folder.path)}
    if not folder.path.is_dir():
        return _Member(about | {"status": "missing", "reason": "its folder is gone"}, _as_settings(member.swept))
    state, damage = _state_of(folder)
    if state is not None:
        about |= {name: getattr(state, name) for name in STATE_COLUMNS}
    try:
        results = read_results(folder)
        read = _measured(member, about, state, results)
    except FileNotFoundError:
        unfinished = _why_unfinished(folder, state, damage[0] if damage else None)
        return _Member(about | unfinished, _settings_of(member), damage=tuple(damage))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = _said(folder.results, error)
        return _Member(about | {"status": "damaged", "reason": reason}, _settings_of(member), damage=(*damage, reason))
    return replace(read, notes=results.notes, damage=(*damage, *_damaged_families(folder)))


def _state_of(folder: RunFolder) -> tuple[RunState | None, list[str]]:
    """A run's state, and what is wrong with its file."""
    try:
        return read_state(folder.state), []
    except (OSError, DamagedFileError) as error:
        return None, [_said(folder.state, error)]


def _measured(member: Member, about: Mapping[str, Any], state: RunState | None, results: Results) -> _Member:
    """A run that has results."""
    nested, own = dict(results.config), results.own
    words, called = {key: dict(one) for key, one in own.get("settings", {}).items()}, read_words(own)
    untrained = {key: value for key, value in about.items() if key not in STATE_COLUMNS or key in _TIMES}
    if results.reference is not None:
        status = {"status": REFERENCE, "reason": f"an SAE from elsewhere: {results.reference.get('origin')}"}
        return _Member(untrained | status, dict(flat(nested)), None, results.metrics, words, called)
    if is_old_reference(member.folder, state):
        status = {"status": REFERENCE, "reason": "an SAE from elsewhere, measured by an earlier version"}
        known = {key: value for key, value in flat(nested) if _holds_of_measuring(key)}
        return _Member(untrained | status, known, None, results.metrics, words, called)
    configuration = dict(flat(nested)) or _settings_of(member)
    masks = _effective(nested.get("mask"), own.get("masks", {}))
    if not results.metrics:
        reason = f"trained, but no metric was measured; {command_name('evaluate')} does so"
        return _Member(dict(about) | {"status": "not measured", "reason": reason}, configuration)
    return _Member(dict(about) | {"status": "done"}, configuration, masks, results.metrics, words, called)


def _holds_of_measuring(key: str) -> bool:
    """Whether a setting says what was measured on, and nothing of a training."""
    return key.startswith(_OF_MEASURING) and key.removeprefix("data.") not in _OF_TRAINING


def _damaged_families(folder: RunFolder) -> list[str]:
    """What is wrong with the files that the results were made of; they stand without them."""
    found: list[str] = []
    for path in sorted(folder.evals.glob("*.json")):
        try:
            read_family_file(path)
        except (OSError, DamagedFileError) as error:
            found.append(_said(path, error))
    return found


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
    if state.status == "running" and (silent_for := silence(folder).total_seconds()) > DEAD_AFTER_SECONDS:
        progress += f"; no sign of life for {timedelta(seconds=round(silent_for))}: its process is probably gone"
    reason = f"{state.error} ({progress})" if state.error else progress
    return {"status": state.status, "reason": reason}


def _settings_of(member: Member) -> dict[str, Any]:
    """From the run's own file; where that cannot be read, what the sweep says of it."""
    try:
        read: Any = OmegaConf.to_container(read_config(member.folder.config))
        check_values(member.folder.config, read)
        return dict(flat(read))
    except (
        OSError, ValueError, TypeError, AttributeError, RuntimeError, YAMLError, OmegaConfBaseException
    ):  # fmt: skip
        return _as_settings(member.swept)


def _as_settings(swept: Mapping[str, str]) -> dict[str, Any]:
    return {key: _parsed(text) for key, text in swept.items()}


def _parsed(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if abs(number) <= _LARGEST else text
    return text


def flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
