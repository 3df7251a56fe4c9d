"""An SAE of anybody's, from a folder or the hub, whichever of the formats here it is in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from masked_sae.digests import of_all, sha256
from masked_sae.errors import InputError, first_line
from masked_sae.interop import dictionary_learning, hub, saelens
from masked_sae.interop.saelens_config import CONFIG
from masked_sae.saes import InferenceSAE


@dataclass(frozen=True)
class FoundSAE:
    """Attributes:
    folder: that holds its files.
    name: of the SAE, short.
    origin: where it can be found again: its folder, or its name on the hub with the commit.
    """

    folder: Path
    name: str
    origin: str


def find_sae(source: str | Path) -> FoundSAE:
    """Where an SAE lies, after its download if need be. Whether it is one shows when it is read.

    Args:
        source: a run's folder or its `sae/`, a folder of SAELens or dictionary_learning, or a name on the hub:
            `owner/repo[/folder][@revision]`, or SAELens' `release:sae_id`.

    Raises:
        InputError: there is no such folder, or the hub has no such SAE.
    """
    if is_folder(source):
        folder = Path(source).expanduser()
        if not _holds_sae(folder) and _holds_sae(folder / "sae"):
            folder /= "sae"
        there = folder.resolve()
        return FoundSAE(folder, there.parent.name if there.name == "sae" else there.name, str(there))
    name = None if isinstance(source, Path) else hub.parse(source)
    if name is None:
        raise InputError("sae", source, "a folder that exists, or a name on the hub such as owner/repo/folder")
    folder, pinned = hub.download(name)
    if not _holds_sae(folder):
        files = "neither cfg.json with sae_weights.safetensors nor config.json with ae.pt"
        valid = f"owner/repo/folder of an SAE: {pinned} holds {files}, as far as it can be had"
        raise InputError("sae", source, valid)
    return FoundSAE(folder, (pinned.folder or pinned.repo).rpartition("/")[2], str(pinned))


def is_folder(source: str | Path) -> bool:
    """Whether a name is that of a folder here, which goes before one of the hub's.

    Raises:
        InputError: it is none that can be looked for.
    """
    try:
        return bool(str(source)) and Path(source).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, out of bounds, of a user who is not there
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise InputError("sae", source, f"a folder that can be read, or a hub name ({why})") from error


def load_sae(source: str | Path, memory: Path | None = None) -> tuple[InferenceSAE, dict[str, Any]]:
    """An SAE, and what its files say of its origin: `model_name`, `hook_name`, `context_size`, … as SAELens names them.

    Args:
        source: see `find_sae`.
        memory: a folder in which digests of files are remembered.

    Raises:
        InputError: there is none, it is damaged, or it does more than encode and decode an activation.
        DamagedFileError: this project exported it, and other bytes are there now.
    """
    folder = find_sae(source).folder
    return _format_of(folder).load_sae(folder, memory)


def read_metadata(folder: Path, memory: Path | None = None) -> dict[str, Any]:
    """What an SAE's files say of its origin, under SAELens' names.

    Raises:
        InputError, DamagedFileError: as `load_sae`, but for what only the weights show.
    """
    return _format_of(folder).read_metadata(folder, memory)


def read_sizes(folder: Path) -> dict[str, Any]:
    """`architecture`, as its format calls it, `d_in`, `d_sae` and `k`, as far as they are told."""
    return _format_of(folder).read_sizes(folder)


def digest_of(folder: Path, memory: Path | None = None) -> str:
    """Of all that an SAE is read from."""
    return of_all([sha256(path, memory) for path in _format_of(folder).files_of(folder)])


class _Format(Protocol):
    """What each format's module has."""

    def load_sae(self, folder: Path, memory: Path | None = None) -> tuple[InferenceSAE, dict[str, Any]]: ...

    def read_metadata(self, folder: Path, memory: Path | None = None) -> dict[str, Any]: ...

    def read_sizes(self, folder: Path) -> dict[str, Any]: ...

    def files_of(self, folder: Path) -> list[Path]: ...


def _format_of(folder: Path) -> _Format:
    theirs = not (folder / CONFIG).is_file() and dictionary_learning.is_one(folder)
    return dictionary_learning if theirs else saelens


def _holds_sae(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or dictionary_learning.is_one(folder)
