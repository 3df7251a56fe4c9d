"""SAEs on the hub, by name: `owner/repo[/folder][@revision]`, or SAELens' `release:sae_id`."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from masked_sae.errors import InputError, first_line

# All that is downloaded of a folder: its SAE, and how SAELens trained it.
FILES = ("cfg.json", "sae_weights.safetensors", "runner_cfg.json", "config.json", "ae.pt")
_PART = r"[A-Za-z0-9_][\w.:+-]*"  # no "..", no hidden file, nothing that a pattern or a shell would take for more
_REPO = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_NAME = re.compile(rf"(?P<repo>{_REPO})(?P<folder>(/{_PART})*)(@(?P<revision>{_PART}(/{_PART})*))?", re.ASCII)
_RELEASE = re.compile(rf"(?P<release>{_PART.replace(':', '')}):(?P<sae>.+)", re.ASCII)
_READABLE = {None: "SAELens'", "dictionary_learning_1": "dictionary_learning's"}
_FEW = 3


@dataclass(frozen=True)
class HubName:
    """Attributes:
    folder: in the repository; empty for its root.
    revision: a branch, tag or commit; None for the main branch.
    """

    repo: str
    folder: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        return "/".join(filter(None, (self.repo, self.folder))) + (f"@{self.revision}" if self.revision else "")


def parse(source: str) -> HubName | None:
    """What a name means; None if it is none.

    Raises:
        InputError: it names a release that SAELens has not, or one of files of another kind.
    """
    name = _NAME.fullmatch(source)
    if name is not None:
        return HubName(name["repo"], name["folder"].removeprefix("/"), name["revision"])
    release = _RELEASE.fullmatch(source)
    return None if release is None else _of_release(source, release["release"], release["sae"])


def download(name: HubName) -> tuple[Path, HubName]:
    """The folder on disk, and the name with its commit.

    Raises:
        InputError: the hub cannot be reached and it was not downloaded before, or the hub has none.
    """
    snapshot = _snapshot(name)
    return snapshot / name.folder, HubName(name.repo, name.folder, snapshot.name)


@lru_cache(maxsize=64)  # one answer for all members of a sweep, even if the branch moves meanwhile
def _snapshot(name: HubName) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import logging

    patterns = [f"{name.folder}/{file}" if name.folder else file for file in FILES]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that none of the files is there is said by whoever looks for them
    try:
        return Path(snapshot_download(name.repo, revision=name.revision, allow_patterns=patterns))
    except GatedRepoError:
        raise InputError("sae", name, "an SAE you have access to: accept its licence, then `hf auth login`") from None
    except RevisionNotFoundError:
        raise InputError("sae", name, f"a branch, tag or commit of {name.repo} after the @") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(
            "sae", name, f"a folder that exists, or a name that the hub has: it has no {name.repo}"
        ) from None
    except Exception as error:  # noqa: BLE001 - each version of the hub's client has its own errors of the network
        raise InputError("sae", name, _unreachable(name, error)) from None
    finally:
        logging.set_verbosity(verbosity)


def _unreachable(name: HubName, error: Exception) -> str:
    if os.environ.get("HF_HUB_OFFLINE") in ("1", "ON", "YES", "TRUE"):
        return "a folder, or an SAE that was downloaded before: HF_HUB_OFFLINE is set, and the hub's cache has none"
    what = f"{name.repo} --include '{name.folder}/*'" if name.folder else name.repo
    return f"a folder, or a hub that can be reached ({first_line(error)}): where it can, `hf download {what}` gets it"


def _of_release(source: str, release: str, sae: str) -> HubName:
    found = _releases().get(release)
    if found is None:
        raise InputError("sae", source, f"a release that SAELens knows before the colon: it knows no {release}")
    entries = {str(one["id"]): one for one in found["saes"]}
    if sae not in entries:
        few = ", ".join([*entries][:_FEW])
        raise InputError("sae", source, f"one of the {len(entries)} SAEs of {release}, such as {few}")
    converted = found.get("conversion_func")
    if converted not in _READABLE:
        formats = " or ".join(_READABLE.values())
        how = "SAELens loads and converts it: SAE.from_pretrained(…)[0].save_model(FOLDER) writes what is read here"
        raise InputError("sae", source, f"a release of files in {formats} format; these are of {converted}. {how}")
    more = [key for key in ("norm_scaling_factor",) if key in entries[sae]]
    more += [key for key in ("normalize_activations",) if key in (found.get("config_overrides") or {})]
    if more:
        how = "load it with SAELens, which folds it in, and save_model(FOLDER)"
        raise InputError("sae", source, f"an SAE that its folder tells all of; SAELens' table adds {more[0]}: {how}")
    return HubName(found["repo_id"], str(entries[sae]["path"]).strip("/"))


@lru_cache(maxsize=1)
def _releases() -> Mapping[str, Any]:
    """SAELens' table of releases, which lies in its package: the package itself is not imported."""
    spec = find_spec("sae_lens")
    places = [] if spec is None else [Path(one) for one in spec.submodule_search_locations or ()]
    for table in (place / "pretrained_saes.yaml" for place in places):
        if table.is_file():
            return yaml.load(table.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    how = "install sae-lens, whose table names releases, or give owner/repo/folder"
    raise InputError("sae", "release:sae_id", f"a name on the hub: {how}")
