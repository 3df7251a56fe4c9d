"""Files that appear whole or not at all, and are read as what they should be or not at all."""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from masked_sae.errors import DamagedFileError, first_line

_ASIDE = re.compile(r"\.(.+)\.[a-z0-9_]{8}")  # what tempfile calls what is written aside


def write_aside(
    path: Path, write: Callable[[Path], None], place: Callable[[Path, Path], object] = Path.replace
) -> None:
    """Has `write` fill a new file beside `path`, makes it durable, and renames it over `path`.

    Args:
        place: gives the file its name, in place of that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        with _naming(path):
            write(aside)
        aside.chmod(0o666 & ~_umask())
        sync(aside)
        place(aside, path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes left beside `path` while writing it aside. Nobody else may be writing it."""
    for aside in path.parent.glob(f".{path.name}.*"):
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def remove_all_leftovers(folder: Path) -> None:
    """As `remove_leftovers`, of every file in a folder."""
    for aside in folder.glob(".*"):
        if match := _ASIDE.fullmatch(aside.name):
            remove_leftovers(folder / match[1])


def write_text(path: Path, text: str) -> None:
    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8")

    write_aside(path, write)


def write_json(path: Path, value: Any) -> None:
    """JSON as other programs read it: NaN and infinities are refused."""
    write_text(path, _as_json(value))


def write_new_json(path: Path, value: Any) -> None:
    """As `write_json`, where there is none: of several machines that do so at once, one succeeds.

    Raises:
        FileExistsError: there is one.
    """

    def write(aside: Path) -> None:
        aside.write_text(_as_json(value), encoding="utf-8")

    write_aside(path, write, give_name)


def give_name(file: Path, path: Path) -> None:
    """Has `file` be called `path`, too; where the file system has one name for each file, `path` alone.

    Raises:
        FileExistsError: another is called so.
    """
    try:
        path.hardlink_to(file)
    except OSError as error:
        if error.errno not in _NO_SECOND_NAME:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        file.rename(path)


_NO_SECOND_NAME = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is not JSON, or nested beyond reading.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: of the encoding, of JSON, of a number without end
        raise DamagedFileError(path, f"not JSON: {first_line(error)}" if path.stat().st_size else "empty") from error


def read_object(path: Path) -> dict[str, Any]:
    """As `read_json`, of a file that holds a JSON object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise DamagedFileError(path, f"a {type(found).__name__} where an object should be")
    return found


@contextmanager
def folder_aside(path: Path, *, replace: bool = False) -> Generator[Path]:
    """A new folder beside `path` that is renamed to it when the block ends well, and removed when it does not.

    Args:
        replace: the folder that is there, with what killed processes left beside it; nobody else may be writing it.
            Between two renames there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if replace:
        remove_leftovers(path)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with _naming(path):
            yield aside
        umask = _umask()
        for made in (aside, *aside.rglob("*")):  # safetensors gives its owner alone a file
            made.chmod((0o777 if made.is_dir() else 0o666) & ~umask)
            sync(made)
        if replace and path.exists():
            former = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            path.rename(former)
            aside.rename(path)
            shutil.rmtree(former, ignore_errors=True)
        else:
            aside.rename(path)
        sync(path.parent)
    finally:
        if aside.exists():
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Has errors of the disk say where, safetensors' too, which are no OSError."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def look_again(folder: Path) -> None:
    """Has what other machines did in the folder be seen. A network file system may remember for a minute what was there
    and what was not; when the folder is opened, it asks.
    """
    with suppress(OSError):
        os.close(os.open(folder, os.O_RDONLY))


def disk_time(folder: Path) -> float:
    """This moment by the clock that files in the folder are dated by: on a network file system its server's."""
    with tempfile.NamedTemporaryFile(prefix=".now.", dir=folder) as dated:
        return os.fstat(dated.fileno()).st_mtime


def sync(path: Path) -> None:
    """Has the file's, or the folder's, content reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
