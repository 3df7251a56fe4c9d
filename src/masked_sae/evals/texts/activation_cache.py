"""Texts whose activations an evaluation reads, each once: the positions, the forwards, the cache on disk.

Axes: N texts, T positions, P read positions of all texts, in order, D `d_in`, E any.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from masked_sae.activations.lm import LM
from masked_sae.digests import sha256
from masked_sae.errors import DamagedFileError
from masked_sae.files import look_again, read_object, remove_leftovers, write_aside, write_json

_POSITIONS_AT_ONCE = 1024  # whose latents are dense at a time


@dataclass(frozen=True)
class TokenizedTexts:
    """Token sequences as the LM reads them, special tokens included, and the positions of interest.

    Attributes:
        tokens_NT: int64; anything after a text's length.
        lengths_N: int64. Texts of one length share forwards, so that nothing is ever padded: an encoder would attend
            to padding, and a mean over positions would count it.
        read_NT: bool; True within the lengths only.
    """

    tokens_NT: Tensor
    lengths_N: Tensor
    read_NT: Tensor

    @cached_property
    def texts_P(self) -> Tensor:  # noqa: N802
        """Which text each read position is of, ascending, int64."""
        return self.read_NT.nonzero()[:, 0]

    @property
    def count(self) -> int:
        return len(self.tokens_NT)

    def digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (self.tokens_NT, self.lengths_N, self.read_NT):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def pooled(self, values_PE: Tensor) -> Tensor:
        """Mean over each text's read positions, (N, E)."""
        sums_NE = values_PE.new_zeros(self.count, values_PE.shape[1]).index_add_(0, self.texts_P, values_PE)
        return sums_NE / self.read_NT.sum(1, keepdim=True).clamp_min(1)

    def pooled_latents(self, encode: Callable[[Tensor], Tensor], x_PD: Tensor, d_sae: int) -> tuple[Tensor, float]:
        """Mean latents over each text's read positions, (N, F), and the mean number of active ones at a position.

        Each position is encoded once, and the latents of a few positions exist at a time.
        """
        counts_N = self.read_NT.sum(1).tolist()
        means_NF = torch.zeros(self.count, d_sae)
        active = start = first = 0
        while first < self.count:
            stop, end = first, start
            while stop < self.count and (end == start or end - start + counts_N[stop] <= _POSITIONS_AT_ONCE):
                end += counts_N[stop]
                stop += 1
            f_BF = encode(x_PD[start:end])
            active += int(f_BF.count_nonzero())
            for text, f_TF in zip(range(first, stop), f_BF.split(counts_N[first:stop]), strict=True):
                if len(f_TF):
                    means_NF[text] = f_TF.mean(0)
            first, start = stop, end
        return means_NF, active / max(1, len(x_PD))


@dataclass(frozen=True)
class ActivationCache:
    """Activations on disk, by LM, hook point and texts: shared by the runs of a sweep. Any file may be deleted.

    Beside each is a note of what was written. A file that is not as its note says, or has none, is made again.

    Attributes:
        folder: of the files.
        lm_key: stands for the LM's weights, hook point and dtype.
        batch_size: texts per forward.
        progress: a bar for texts that are not on disk.
        memory: a folder in which digests of files are remembered.
    """

    folder: Path
    lm_key: str
    batch_size: int
    progress: bool = False
    memory: Path | None = None

    def read(self, lm: LM, texts: TokenizedTexts, name: str) -> Tensor:
        """Activations at the read positions as the LM gives them, (P, D), float32, mapped from the file.

        Args:
            name: what the texts are for, to be read in file names and on the bar.
        """
        key = hashlib.blake2b(f"{self.lm_key}/{texts.digest()}".encode(), digest_size=12).hexdigest()
        path = self.folder / f"{name.replace('/', '_')}-{key}.npy"
        shape = (int(texts.read_NT.sum()), lm.d_in)
        if self._wrong(path, shape) is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):  # several runs may want it at once: one reads, the others wait
                look_again(self.folder)
                wrong = self._wrong(path, shape)
                if wrong is not None:
                    if wrong:
                        print(f"{path} is not as it was written ({wrong}): made again", flush=True)
                    self._make(path, shape, lm, texts, name)
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))

    def _wrong(self, path: Path, shape: tuple[int, int]) -> str | None:
        """What is wrong with a file; empty where there is none, None where nothing is."""
        if not path.is_file():
            return ""
        try:
            note = read_object(_note(path))
        except FileNotFoundError:
            return "without a digest"
        except DamagedFileError as error:
            return f"its digest is {error.why}"
        size = path.stat().st_size
        if size != note.get("bytes"):
            return f"{size} bytes in place of {note.get('bytes')}"
        if list(shape) != note.get("shape"):
            return f"of shape {note.get('shape')} in place of {list(shape)}"
        return None if sha256(path, self.memory, progress=self.progress) == note.get("sha256") else "other bytes"

    def _make(self, path: Path, shape: tuple[int, int], lm: LM, texts: TokenizedTexts, name: str) -> None:
        note = _note(path)
        for old in (path, note):
            remove_leftovers(old)
            old.unlink(missing_ok=True)
        write_aside(path, lambda aside: self._fill(aside, shape, lm, texts, name))
        try:
            digest = sha256(path, self.memory, progress=self.progress)
            write_json(note, {"shape": list(shape), "bytes": path.stat().st_size, "sha256": digest})
        except OSError:
            path.unlink(missing_ok=True)  # of no use without its note, and in the way where the disk is full
            raise

    def _fill(self, path: Path, shape: tuple[int, int], lm: LM, texts: TokenizedTexts, name: str) -> None:
        """Writes without a memory map: on a full disk that ends the process, where a write is an error."""
        first_N = texts.read_NT.sum(1).cumsum(0) - texts.read_NT.sum(1)
        bar = tqdm(total=texts.count, desc=f"activations: {name}", unit="text", leave=False, disable=not self.progress)
        with path.open("wb") as file, bar:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            content = file.tell()
            for length in texts.lengths_N.unique().tolist():
                for rows in (texts.lengths_N == length).nonzero()[:, 0].split(self.batch_size):
                    read_NT = texts.read_NT[rows, :length]
                    x_NTD = lm.activations(texts.tokens_NT[rows, :length])
                    values = x_NTD[read_NT.to(x_NTD.device)].cpu().split(read_NT.sum(1).tolist())
                    for text, x_BD in zip(rows.tolist(), values, strict=True):
                        file.seek(content + int(first_N[text]) * shape[1] * 4)
                        file.write(x_BD.numpy().astype("<f4", copy=False).tobytes())
                    bar.update(len(rows))


def _note(path: Path) -> Path:
    return path.with_suffix(".json")
