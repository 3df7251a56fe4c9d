"""What was measured of a run: `evals/<family>.json`, and `results.json` made of them."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from masked_sae.bundled import command_name
from masked_sae.config import RunConfig
from masked_sae.errors import DamagedFileError, first_line
from masked_sae.evals.family import Family, Measured, words_of
from masked_sae.files import read_object, write_json
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import RunState

REFERENCE = "reference"  # the key of what tells an SAE from elsewhere, in config.yaml and results.json
_MEASURE = f"remove it, and {command_name('evaluate')} measures it again"
_REWRITE = f"{command_name('evaluate')} writes it again from evals/"
_LARGEST = 1e100  # of a metric: the square of what is larger is none
_LARGEST_SETTING = 2**63
_SAID = ("label", "unit", "sparsity", "cure")
_WORDS = (*_SAID, "neutral")


@dataclass(frozen=True)
class Results:
    """What `results.json` holds, checked.

    Attributes:
        metrics: keyed `family/metric`; what could not be measured is left out.
        notes: by family and metric, or set of metrics.
        config: the run's configuration, nested; empty where it is not told.
        own: what is told of a user's own.
        reference: of an SAE from elsewhere, where it came from; None for a run.
    """

    metrics: Mapping[str, float]
    notes: Mapping[str, str]
    config: Mapping[str, Any]
    own: Mapping[str, Any]
    reference: Mapping[str, Any] | None


def read_results(folder: RunFolder) -> Results:
    """What was measured of a run.

    Raises:
        FileNotFoundError: there are no results.
        DamagedFileError: the file is not what `write_results` leaves.
    """
    path = folder.results
    found = read_object(path)
    check_values(path, found, _REWRITE)
    if "metrics" not in found:
        raise DamagedFileError(path, "it has no metrics", _REWRITE)
    measured = {key: value for key, value in _object(path, found, "metrics", _REWRITE).items() if value is not None}
    return Results(
        _numbers(path, measured, _REWRITE),
        _texts(path, found, _REWRITE),
        _object(path, found, "config", _REWRITE),
        _object(path, found, "own", _REWRITE),
        _object(path, found, REFERENCE, _REWRITE) if found.get(REFERENCE) is not None else None,
    )


def is_old_reference(folder: RunFolder, state: RunState | None) -> bool:
    """Whether an earlier version measured an SAE from elsewhere into this folder: with its command's defaults as the
    configuration of a run that nobody trained.
    """
    nobody = state is not None and state.status == "done" and state.steps == 0
    return nobody and not any(path.exists() for path in (folder.checkpoints, folder.metrics, folder.sae))


def read_family(folder: RunFolder, family: str) -> dict[str, Any] | None:
    """What a family's file holds; None where there is none.

    Raises:
        DamagedFileError: see `read_family_file`.
    """
    path = folder.family(family)
    return read_family_file(path) if path.exists() else None


def read_family_file(path: Path) -> dict[str, Any]:
    """`settings`, `metrics`, `notes` and `details`; of a user's own family `words` too.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is not what `write_family` leaves.
    """
    found = read_object(path)
    check_values(path, found, _MEASURE)
    for key in ("settings", "metrics", "notes", "details"):
        if key not in found:
            raise DamagedFileError(path, f"it has no {key}", _MEASURE)
        _object(path, found, key, _MEASURE)
    _numbers(path, found["metrics"], _MEASURE)
    _texts(path, found, _MEASURE)
    if "words" in found and not isinstance(_object(path, found, "words", _MEASURE).get("metrics"), dict):
        raise DamagedFileError(path, "its words have no metrics", _MEASURE)
    return found


def check_values(path: Path, found: Any, mend: str = "") -> None:
    """Refuses what no file can be written with again: numbers that are none, or beyond any computation, halves of
    characters, and nesting beyond reading.

    Raises:
        DamagedFileError: says what there is.
    """
    try:
        json.dumps(found, ensure_ascii=False, allow_nan=False, default=str).encode()
        largest = max((abs(one) for one in _whole_numbers(found)), default=0)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedFileError(path, first_line(error), mend) from error
    if largest > _LARGEST_SETTING:
        shown = f"{largest}" if largest < 10**30 else f"of {len(str(largest))} digits"
        raise DamagedFileError(path, f"a whole number too large for any use: {shown}", mend)


def _whole_numbers(found: Any) -> Iterator[int]:
    if isinstance(found, int):
        yield found
    elif isinstance(found, (dict, list)):
        held = cast("dict[str, Any] | list[Any]", found)
        for one in held.values() if isinstance(held, dict) else held:
            yield from _whole_numbers(one)


def _object(path: Path, found: Mapping[str, Any], key: str, mend: str) -> dict[str, Any]:
    value = found.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DamagedFileError(path, f"{key} is a {type(value).__name__} where an object should be", mend)
    return cast(dict[str, Any], value)


def _numbers(path: Path, metrics: Mapping[str, Any], mend: str) -> dict[str, float]:
    for key, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise DamagedFileError(path, f"metric {key} is a {type(value).__name__} where a number should be", mend)
        if not abs(value) <= _LARGEST or not math.isfinite(value):
            raise DamagedFileError(path, f"metric {key} is {value:.3g}, beyond any that can be measured", mend)
    return {key: float(value) for key, value in metrics.items()}


def _texts(path: Path, found: Mapping[str, Any], mend: str) -> dict[str, str]:
    """Its notes."""
    notes = _object(path, found, "notes", mend)
    for key, note in notes.items():
        if not isinstance(note, str):
            raise DamagedFileError(path, f"note {key} is a {type(note).__name__} where a text should be", mend)
    return notes


def write_family(
    folder: RunFolder, family: Family, settings: Mapping[str, Any], measured: Measured, seconds: float
) -> None:
    """A family's file; of a user's own it also has how each metric is called.

    Args:
        settings: that the figures depend on.
    """
    words: dict[str, Any] = {}
    if "own" in settings:
        found = {name: words_of(family.wording, name) for name in measured.metrics}
        called = {name: asdict(one[1]) for name, one in found.items() if one is not None}
        words = {"words": {"l0": family.l0, "metrics": called}}
    write_json(folder.family(family.name), {"settings": settings, "seconds": seconds, **asdict(measured), **words})


def write_results(
    folder: RunFolder, settings: Mapping[str, Any], own: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """`results.json` from the families' files.

    Args:
        settings: the run's configuration.
            Of an SAE from elsewhere it has `reference`, which the file then has beside it.
        own: of `describe_own`; None: what the file says already.

    Returns:
        All metrics, keyed `family/metric`.

    Raises:
        DamagedFileError: a family's file is not what `write_family` leaves.
    """
    metrics: dict[str, float] = {}
    notes: dict[str, str] = {}
    described: dict[str, Any] = dict(read_own(folder) if own is None else own)
    for path in sorted(folder.evals.glob("*.json")):
        measured = read_family_file(path)
        metrics |= {f"{path.stem}/{key}": value for key, value in measured["metrics"].items()}
        notes |= {f"{path.stem}/{key}": value for key, value in measured["notes"].items()}
        if "words" in measured:
            described["families"] = {**described.get("families", {}), path.stem: measured["words"]}
    config = {key: value for key, value in settings.items() if key != REFERENCE}
    results: dict[str, Any] = {"run_id": folder.run_id, "status": "done"}
    results |= {REFERENCE: settings[REFERENCE]} if REFERENCE in settings else {}
    results |= {"config": config, "metrics": metrics} | ({"notes": notes} if notes else {})
    write_json(folder.results, results | ({"own": described} if described else {}))
    return metrics


def describe_own(config: RunConfig) -> dict[str, Any]:
    """What the report has to know of a user's own masks and architecture, whose modules it may not have: what of each
    mask makes a difference, which settings make the architecture sparse, what settings are called and their units.
    """
    described: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for name, mask in config.mask.items():
        if mask._module_ is not None:  # pyright: ignore[reportPrivateUsage] - a key of the configuration
            of_mask = {"effective": mask.effective(), "kept_share": mask.kept_share()}
            described["masks"] = {**described.get("masks", {}), name: of_mask}
            words |= _words(mask, f"mask.{name}.")
    if config.sae._module_ is not None:  # pyright: ignore[reportPrivateUsage]
        words |= _words(config.sae, "sae.")
    return described | ({"settings": words} if words else {})


def read_own(folder: RunFolder) -> Mapping[str, Any]:
    """What the results tell of a user's own; nothing where there are none, or they are damaged."""
    try:
        return read_results(folder).own
    except (OSError, DamagedFileError):
        return {}


def _words(settings: Any, prefix: str) -> dict[str, Any]:
    """Label, unit, whether it makes SAEs sparse and whether it is a cure, of each setting that says so."""
    return {
        f"{prefix}{one.name}": {key: one.metadata[key] for key in _WORDS if key in one.metadata}
        for one in fields(settings)
        if any(one.metadata.get(key) for key in _SAID)
    }
