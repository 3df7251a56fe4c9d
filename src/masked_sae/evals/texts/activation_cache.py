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
from masked_sae.files import remove_leftovers, write_aside

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

    Attributes:
        folder: of the files.
        lm_key: stands for the LM's weights, hook point and dtype.
        batch_size: texts per forward.
        progress: a bar for texts that are not on disk.
    """

    folder: Path
    lm_key: str
    batch_size: int
    progress: bool = False

    def read(self, lm: LM, texts: TokenizedTexts, name: str) -> Tensor:
        """Activations at the read positions as the LM gives them, (P, D), float32, mapped from the file.

        Args:
            name: what the texts are for, to be read in file names and on the bar.
        """
        key = hashlib.blake2b(f"{self.lm_key}/{texts.digest()}".encode(), digest_size=12).hexdigest()
        path = self.folder / f"{name.replace('/', '_')}-{key}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):  # several runs may want it at once: one reads, the others wait
                if not path.exists():
                    remove_leftovers(path)
                    write_aside(path, lambda aside: self._fill(aside, lm, texts, name))
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))

    def _fill(self, path: Path, lm: LM, texts: TokenizedTexts, name: str) -> None:
        shape = (int(texts.read_NT.sum()), lm.d_in)
        x_PD = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        first_N = texts.read_NT.sum(1).cumsum(0) - texts.read_NT.sum(1)
        bar = tqdm(total=texts.count, desc=f"activations: {name}", unit="text", leave=False, disable=not self.progress)
        with bar:
            for length in texts.lengths_N.unique().tolist():
                for rows in (texts.lengths_N == length).nonzero()[:, 0].split(self.batch_size):
                    read_NT = texts.read_NT[rows, :length]
                    x_NTD = lm.activations(texts.tokens_NT[rows, :length])
                    values = x_NTD[read_NT.to(x_NTD.device)].cpu().split(read_NT.sum(1).tolist())
                    for text, x_BD in zip(rows.tolist(), values, strict=True):
                        start = int(first_N[text])
                        x_PD[start : start + len(x_BD)] = x_BD.numpy()
                    bar.update(len(rows))
        x_PD.flush()
