"""Windows of activations on disk: what the LM gave for each, in a file of its own, whole or absent.

    <data.cache_dir>/<key>/<index>.safetensors

A key stands for all that decides what the LM gives. A file's time of change is that of its last use. Any file may be
deleted at any time.

Axes: W activations of a window, D `d_in`.
"""

import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from masked_sae.digests import of_all
from masked_sae.errors import DamagedFileError, notice, one_line
from masked_sae.files import look_again, remove_leftovers
from masked_sae.tensor_files import load_tensors, save_tensors
from masked_sae.text.settings import DataSettings

_FORMAT = "windows/1"
_LIBRARIES = ("transformer-lens", "transformers", "torch")  # that a forward's bits depend on
_KEY = re.compile(r"[0-9a-f]{32}")
_WINDOW = re.compile(r"\d+\.safetensors|\.\d+\.safetensors\.[a-z0-9_]{8}")  # whole, or being written aside
_HEADER_BYTES = 4096
_COMPUTING_SECONDS, _WRITING_SECONDS = 600.0, 60.0  # at most, that another process is waited for


@dataclass(frozen=True)
class StoredWindow:
    """What the LM gave for a window, before scaling and shuffling.

    Attributes:
        x_WD: on the CPU where it was read, in the cache's dtype, or as it was given where that would have rounded it.
        target_WD: as `x_WD`; None where it is the target.
        maskable, masked: tokens of the window that a mask may replace, and that it did.
    """

    x_WD: Tensor
    target_WD: Tensor | None
    maskable: int
    masked: int

    @property
    def counts(self) -> list[int]:
        """Of activations, and of tokens that a mask may replace, and that it did."""
        return [len(self.x_WD), self.maskable, self.masked]

    def tensors(self) -> list[Tensor]:
        """Activations, and clean targets where there are."""
        return [self.x_WD] if self.target_WD is None else [self.x_WD, self.target_WD]


class WindowCache:
    """The windows of one stream on disk.

    Args:
        folder: of all streams' windows.
        key: stands for all that decides what the LM gives for a window; 32 hexadecimal digits.
        dtype: of what is stored; nothing is rounded to it: at a few hook points an LM has finer numbers than its own.
        limit_bytes: of all that is in the folder, other streams' windows included.
        writes: whether windows that are not there are written.
        windows: how many the stream has, to say what it needs.
    """

    def __init__(
        self, folder: Path, key: str, dtype: torch.dtype, limit_bytes: int, *, writes: bool, windows: int | None = None
    ) -> None:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key: expected 32 hexadecimal digits")
        self.dtype, self.writes = dtype, writes
        self.folder = folder / key
        self._all, self._key, self._limit, self._windows = folder, key, limit_bytes, windows
        self._held: set[int] = set()  # windows whose locks are ours
        self._patience = _COMPUTING_SECONDS
        self._said: set[str] = set()

    def has_any(self) -> bool:
        """Whether a window is there."""
        return any(self.folder.glob("[0-9]*.safetensors"))

    def read(self, index: int) -> StoredWindow | None:
        """The window, or None where it is not there, or not as it was written: then this is said."""
        path = self._path(index)
        try:
            window = self._window(path, index)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedFileError as error:
            self._say(f"{error}: its activations are computed anew")
            if self.writes:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            return None
        except OSError as error:
            self._say(f"{path} cannot be read ({_why(error)}): its activations are computed anew")
            return None
        with suppress(OSError):  # where nothing can be written, use leaves no mark
            os.utime(path)
        return window

    @contextmanager
    def turn(self, index: int, unwanted: Callable[[], bool] | None = None) -> Generator[StoredWindow | None]:
        """Gives the window, or None to whoever comes first, who computes and writes it while the block runs; others
        wait for that, and read it.

        Who needs windows of several streams at once takes their turns in the order of their `folder`, as everybody
        does: else two could wait for each other.

        Args:
            unwanted: whether nobody waits for the window any more: then this does not either.
        """
        found = self.read(index)
        if found is not None or not self.writes:  # of what is not written, nobody has to wait
            yield found
            return
        with _locked(self.folder / f"{index}.lock", self._patience, unwanted) as lock:
            if lock == "busy" and not (unwanted is not None and unwanted()):
                self._patience = 0.0
                self._say(f"{self._path(index)} has been in the making elsewhere for long: it is computed here, too")
            if lock == "held":
                self._held.add(index)
            look_again(self.folder)
            try:
                yield self.read(index)
            finally:
                self._held.discard(index)

    def write(self, index: int, window: StoredWindow) -> None:
        """Stores a window if there is room. Where there is none, or the disk does not have it, this is said, and no
        more windows are stored.
        """
        if not self.writes:
            return
        tensors = {"x_WD": self._narrowed(window.x_WD)}
        if window.target_WD is not None:
            tensors["target_WD"] = self._narrowed(window.target_WD)
        path = self._path(index)
        meta = {"key": self._key, "index": index, "maskable": window.maskable, "masked": window.masked}
        size = sum(tensor.nbytes for tensor in tensors.values()) + _HEADER_BYTES
        try:
            with _locked(self._all / ".lock", _WRITING_SECONDS):  # one at a time, so that the limit holds
                if index in self._held:
                    remove_leftovers(path)
                self.writes = self._make_room(size)
                if self.writes:
                    save_tensors(path, tensors, meta)
                else:
                    self._say(self._no_room(size))
        except (OSError, SafetensorError) as error:
            self.writes = False
            self._say(f"{path} cannot be written ({_why(error)}): no more activations are stored")

    def _path(self, index: int) -> Path:
        return self.folder / f"{index}.safetensors"

    def _window(self, path: Path, index: int) -> StoredWindow:
        tensors, meta = load_tensors(path)
        if (meta.get("key"), meta.get("index")) != (self._key, index):
            raise DamagedFileError(path, "it is another window")
        x_WD, target_WD = tensors.get("x_WD"), tensors.get("target_WD")
        if x_WD is None or x_WD.dim() != 2 or any(one.shape != x_WD.shape for one in tensors.values()):
            raise DamagedFileError(path, "not the tensors of a window")
        maskable, masked = meta.get("maskable"), meta.get("masked")
        if not isinstance(maskable, int) or not isinstance(masked, int):
            raise DamagedFileError(path, "no counts in its header")
        return StoredWindow(x_WD, target_WD, maskable, masked)

    def _narrowed(self, x_WD: Tensor) -> Tensor:
        narrow_WD = x_WD.to(self.dtype)
        return narrow_WD if torch.equal(narrow_WD.to(x_WD.dtype), x_WD) else x_WD

    def _make_room(self, size: int) -> bool:
        """Removes windows of other streams, of the oldest use first, until so many bytes fit; none if they cannot."""
        files = list(_windows_in(self._all))
        own = sum(stat.st_size for path, stat in files if path.parent == self.folder)
        if own + size > self._limit:
            return False
        total = sum(stat.st_size for _, stat in files)
        others = [(stat.st_mtime_ns, path, stat.st_size) for path, stat in files if path.parent != self.folder]
        for _, path, freed in sorted(others):
            if total + size <= self._limit:
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
                total -= freed
                path.with_suffix(".lock").unlink(missing_ok=True)
        return total + size <= self._limit

    def _no_room(self, size: int) -> str:
        need = f"windows of {_gib(size)} each" if self._windows is None else f"about {_gib(self._windows * size)}"
        limit = f"data.cache_gib={self._limit / 2**30:g}"
        return f"the stream needs {need}, and {limit} has no more room in {self._all}: the rest is not stored"

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            notice(line)


def stream_cache(
    settings: DataSettings,
    lm_dtype: str,
    lm_output: str,
    device: torch.device,
    *,
    windows: int | None = None,
    ranks: int = 1,
    pieces_of: int | None = None,
) -> WindowCache | None:
    """The cache of a run's stream, by `data.cache`; None where it is to do without: with `auto` also where no window of
    the stream is there. What is stored has the bits that this process would compute, on the same kind of processor.

    Args:
        lm_output: of the run's `Sharing`.
        device: that the LM runs on; on a CPU torch's number of threads counts, too.
        windows: how many the stream has.
        ranks: that share its forwards.
        pieces_of: sequences at one time in the LM, where these are fewer than a forward has: last bits are others.
    """
    if settings.cache == "false":
        return None
    dtype = settings.cache_dtype or lm_dtype
    threads = f"{torch.get_num_threads()} threads" if device.type == "cpu" else ""
    shares = [] if ranks == 1 else [f"{ranks} ranks"]  # whose forwards have other sequences together
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    pieces = [] if pieces_of is None else [f"pieces of {pieces_of}"]
    key = of_all([_FORMAT, *libraries, device.type, threads, *shares, dtype, lm_output, *pieces])
    cache = WindowCache(
        Path(settings.cache_dir),
        key,
        getattr(torch, dtype),
        int(settings.cache_gib * 2**30),
        writes=settings.cache == "true",
        windows=windows,
    )
    return cache if cache.writes or cache.has_any() else None


@contextmanager
def _locked(
    path: Path, patience: float, unwanted: Callable[[], bool] | None = None
) -> Generator[Literal["held", "busy", "none"]]:
    """Holds a lock while the block runs, which goes on without where another process keeps it for too long, or where
    the file system has no locks.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience, cancel_check=unwanted)
    except Timeout:
        state = "busy"
    except (OSError, NotImplementedError):
        state = "none"
    else:
        state = "held"
    try:
        yield state
    finally:
        if state == "held":
            with suppress(OSError):
                lock.release()


def _windows_in(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All streams' windows, and what killed writers left of some; no other file, should there be any."""
    for path in folder.glob("*/*"):
        if _KEY.fullmatch(path.parent.name) and _WINDOW.fullmatch(path.name):
            with suppress(OSError):  # removed by now
                yield path, path.stat()


def _gib(size: int) -> str:
    return f"{size / 2**30:.2g} GiB"


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)
