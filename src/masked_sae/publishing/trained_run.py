"""A run as it is published: what is on record of it, without what is private."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from masked_sae.bundled import command_name, find_folder
from masked_sae.errors import DamagedFileError, InputError, first_line
from masked_sae.files import read_object
from masked_sae.interop.saelens import check_sae
from masked_sae.publishing.privacy import public_settings, public_values
from masked_sae.report.catalogue import read_words
from masked_sae.runs.attempts import Attempt, read_attempts
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import Results, is_old_reference, read_family, read_results
from masked_sae.runs.state import RunState, read_state

_NAME = re.compile(r"[A-Za-z0-9](?:[\w.=+-]*[\w=+-])?", re.ASCII)  # a folder's, as a hub and a URL take it


@dataclass(frozen=True)
class TrainedRun:
    """Attributes:
    name: of its folder, which SAELens takes as `sae_id`.
    swept: the keys that its sweep varies, with its values.
    cfg: of its SAE, as SAELens reads it.
    measured_with: by family of metrics, the settings that its figures depend on.
    hub_lm: its LM's name on the hub; None where it was a folder's.
    """

    folder: RunFolder
    swept: Mapping[str, str]
    results: Results
    cfg: Mapping[str, Any]
    state: RunState
    attempts: tuple[Attempt, ...]
    measured_with: Mapping[str, Mapping[str, Any]]
    hub_lm: str | None

    @property
    def name(self) -> str:
        return self.folder.run_id

    @property
    def weights(self) -> Path:
        return self.folder.sae / "sae_weights.safetensors"

    def setting(self, key: str) -> Any:
        """A setting by its dotted key; None where the run has none."""
        return _at(self.results.config, key)


def why_not_published(folder: RunFolder) -> str:
    """Why a folder is no run to publish; empty where it is one.

    Raises:
        DamagedFileError: its state or its results cannot be read.
    """
    state = read_state(folder.state)
    if state is None:
        return "holds no run"
    if state.status != "done":
        return f"is {state.status}"
    if not folder.results.exists():
        return f"has lost its results.json, which {command_name('evaluate')} writes again"
    if is_old_reference(folder, state) or read_results(folder).reference is not None:
        return "is an SAE from elsewhere, which others publish"
    return ""


def read_trained_run(folder: RunFolder, swept: Mapping[str, str] | None = None) -> TrainedRun:
    """A run that is done, its weights' digest checked.

    Raises:
        InputError, DamagedFileError: it has no SAE, or not the one that was exported; or no name that a hub takes.
    """
    if not _NAME.fullmatch(folder.run_id):
        raise InputError("run", folder.path, "a folder whose name has letters, digits and . _ = + - alone: rename it")
    check_sae(folder.sae)
    state = read_state(folder.state)
    assert state is not None  # it was asked whether it is done
    results = read_results(folder)
    _refuse_odd_words(folder, results)
    public = replace(
        results,
        config=public_settings(results.config),
        notes=public_values(results.notes),
        own=public_values(results.own),
    )
    cfg = public_values(read_object(folder.sae / "cfg.json"))
    attempts = tuple(read_attempts(folder.attempts))
    lm = hub_name(str(_at(results.config, "lm.name") or ""))
    return TrainedRun(folder, public_values(swept or {}), public, cfg, state, attempts, _measured_with(folder), lm)


def _refuse_odd_words(folder: RunFolder, results: Results) -> None:
    """What results tell of a user's own masks and metrics has a form."""
    try:
        read_words(results.own)
        for mask in results.own.get("masks", {}).values():
            dict(mask["effective"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(folder.results, f"what it tells of its maker's own is {first_line(error)}") from error


def _at(settings: Mapping[str, Any], key: str) -> Any:
    """A setting by its dotted key; None where there is none."""
    value: Any = settings
    for part in key.split("."):
        value = cast(Mapping[str, Any], value).get(part) if isinstance(value, Mapping) else None
    return value


def hub_name(lm: str) -> str | None:
    """The name of an LM, where it is one that the hub may have; None of a folder."""
    try:
        validate_repo_id(lm)
    except HFValidationError:
        return None
    return None if not lm or find_folder(lm).is_dir() else lm


def _measured_with(folder: RunFolder) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.evals.glob("*.json")):
        try:
            family = read_family(folder, path.stem)
        except DamagedFileError:
            continue  # the results stand without it
        if family is not None:
            found[path.stem] = public_values(family["settings"])
    return found
