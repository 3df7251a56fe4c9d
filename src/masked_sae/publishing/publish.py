"""`python -m src.publish`: a run or a sweep, to the hub or into a folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from masked_sae import checks
from masked_sae.errors import InputError
from masked_sae.files import folder_aside
from masked_sae.publishing.card import CARD, Place
from masked_sae.publishing.publication import Publication, prepare_run, prepare_sweep
from masked_sae.publishing.upload import check_name, full_name, upload

_WIDTH = 80  # columns
_MOST_LISTED = 16  # files, one by one
_YOU = "YOUR-NAME"  # in a dry run, the owner of what has none


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        folder: of a run, or of a sweep.
        is_sweep: which of both.
        private: for nobody else to see, until told otherwise on the hub.
        license: as the hub names it; None: not said.
        dry_run: to a folder, in place of the hub.
        output_dir: that folder; None: `published/<repo>`.
    """

    folder: Path
    is_sweep: bool
    repo: str
    private: bool = True
    license: str | None = None
    dry_run: bool = False
    output_dir: Path | None = None


def publish(asked: Request) -> list[str]:
    """Publishes, and returns what there is to say.

    Raises:
        InputError: of a key that is wrong, before long work; or the hub refuses.
        DamagedFileError: a file is not what was written there.
    """
    check_name(asked.repo)
    if asked.license is not None:
        checks.filled("license", asked.license)
    if asked.output_dir is not None and not asked.dry_run:
        raise InputError("output_dir", asked.output_dir, "dry_run=true with it, or none")
    if asked.dry_run:
        owned = asked.repo if "/" in asked.repo else f"{_YOU}/{asked.repo}"
        target = asked.output_dir or Path("published") / asked.repo
        _refuse_others_folder(target)
        with TemporaryDirectory() as staging:
            prepared = _prepare(asked, owned, Path(staging))
            _write(prepared, target.resolve())
            said = _said(prepared)
        return [*said, f"{target}: what would go to {owned}; nothing was uploaded"]
    repo = full_name(asked.repo)
    with TemporaryDirectory() as staging:
        prepared = _prepare(asked, repo, Path(staging))
        kind = "Sweep" if asked.is_sweep else "Run"
        message = f"{kind} {asked.folder.resolve().name}, by masked-sae"
        url = upload(repo, prepared.files, message, private=asked.private)
        said = _said(prepared)
    seen = "private, until you change it in its settings there" if asked.private else "for all to see, or as it was"
    return [*said, f"{url} ({seen})"]


def _prepare(asked: Request, repo: str, staging: Path) -> Publication:
    prepare = prepare_sweep if asked.is_sweep else prepare_run
    return prepare(asked.folder, Place(repo, asked.license), staging.resolve())


def _refuse_others_folder(folder: Path) -> None:
    """A folder that holds anything but what was published before is not replaced."""
    if not folder.exists():
        return
    ours = folder.is_dir() and (folder / CARD).is_file() and "\n- masked-sae\n" in (folder / CARD).read_text("utf-8")
    if not ours and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError("output_dir", folder, "a new folder, or one that a dry run has written")


def _write(prepared: Publication, folder: Path) -> None:
    """All of it or nothing; a former dry run's is replaced."""
    with folder_aside(folder, replace=True) as aside:
        for name, file in prepared.files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, aside / name)


def _said(prepared: Publication) -> list[str]:
    """What goes where, with sizes, on as many columns as a terminal has at least; and the notes."""
    return [*_listed(prepared.files), *(f"note: {note}" for note in prepared.notes)]


def _listed(files: Mapping[str, Path]) -> list[str]:
    """Files one by one, or of many those of a folder together."""
    together: dict[str, list[int]] = {}
    for name, file in files.items():
        folder, below, _ = name.partition("/")
        shown = f"{folder}/" if below and len(files) > _MOST_LISTED else name
        together.setdefault(shown, []).append(file.stat().st_size)
    return [
        f"{_size(sum(sizes)):>9}  {_brief(f'{name} ({len(sizes)} files)' if name.endswith('/') else name)}"
        for name, sizes in together.items()
    ]


def _brief(name: str) -> str:
    room = _WIDTH - 11
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _size(count: int) -> str:
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.{0 if unit == 'B' else 1}f} {unit}"
