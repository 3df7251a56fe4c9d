"""Tokens and an LM in, shuffled and masked batches of activations out: a pure function of the batch's index.

Axes: N sequences, T positions, B activations, D `d_in`, W activations of a window.

    run's order of sequences -> window of sequences -> token mask -> LM -> kept positions, scaled -> shuffled batches

Window `w` holds the sequences `w * S` to `(w + 1) * S - 1` of the run's order and gives a fixed number of batches, so
batch `i` lies in window `i // batches_per_window` and needs nothing but its own window.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.activations.lm import LM, SpecialTokens
from masked_sae.activations.stopwatch import Stopwatch
from masked_sae.errors import InputError, NonFiniteError
from masked_sae.masks.masking import TokenMask
from masked_sae.randomness import permute, torch_generator
from masked_sae.text.store import sequences

_SPARE = 1.01  # sequences set aside for a window, as chance may keep fewer positions than expected


class Batch(NamedTuple):
    """Activations for one SAE step.

    Attributes:
        x_BD: what the SAE reads: activations on the masked text.
        target_BD: what it has to give back; the same tensor unless the target is the clean text's.
        masked_share: share of the window's maskable tokens that were replaced.
    """

    x_BD: Tensor
    target_BD: Tensor
    masked_share: float


@dataclass(frozen=True)
class Layout:
    """Sequences of a corpus: `prefix`, `content_length` tokens of the flat store, `suffix`."""

    tokens: NDArray[Any]
    content_length: int
    special: SpecialTokens

    def __len__(self) -> int:
        return len(self.tokens) // self.content_length

    def read(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Token ids (N, T), int64, and which positions are kept (N, T): all but special ones."""
        content_NT = sequences(self.tokens, self.content_length, indices)
        ends = (len(self.special.prefix), len(self.special.suffix))
        tokens_NT = np.pad(content_NT, ((0, 0), ends))
        tokens_NT[:, : ends[0]] = self.special.prefix
        tokens_NT[:, tokens_NT.shape[1] - ends[1] :] = self.special.suffix
        kept_NT = ~np.isin(tokens_NT, self.special.ids)
        kept_NT[:, : ends[0]] = False
        kept_NT[:, tokens_NT.shape[1] - ends[1] :] = False
        return torch.from_numpy(tokens_NT), torch.from_numpy(kept_NT)


def make_layout(tokens: NDArray[Any], context_length: int, special: SpecialTokens) -> Layout:
    """The sequences of `context_length` tokens, special ones included.

    Raises:
        InputError: the corpus is shorter than one of them.
    """
    content = context_length - len(special.prefix) - len(special.suffix)
    if content < 1:
        taken = len(special.prefix) + len(special.suffix)
        raise InputError("data.context_length", context_length, f"more than the {taken} special tokens of a sequence")
    layout = Layout(tokens, content, special)
    if len(layout) == 0:
        valid = f"at most {len(tokens) + context_length - content}: the corpus has {len(tokens)} tokens"
        raise InputError("data.context_length", context_length, valid)
    return layout


@dataclass(frozen=True)
class Plan:
    """The stream's arithmetic. `kept_share` is the expected share of content positions that reach the SAE."""

    batch_size: int
    batches_per_window: int
    sequences_per_window: int
    steps: int
    train_tokens: int  # as asked for

    @classmethod
    def make(
        cls, batch_size: int, window_tokens: int, train_tokens: int, content_length: int, kept_share: float
    ) -> "Plan":
        steps = train_tokens // batch_size
        batches = min(max(1, window_tokens // batch_size), steps)
        n_sequences = math.ceil(_SPARE * batches * batch_size / (content_length * kept_share))
        return cls(batch_size, batches, n_sequences, steps, train_tokens)

    @property
    def window_tokens(self) -> int:
        return self.batches_per_window * self.batch_size

    @property
    def windows(self) -> int:
        return math.ceil(self.steps / self.batches_per_window)

    @property
    def sequences(self) -> int:
        """How many sequences the whole run reads."""
        return self.windows * self.sequences_per_window

    def check_epochs(self, corpus_sequences: int, max_epochs: float) -> None:
        """Refuses a run that would read the corpus more often than allowed.

        Raises:
            InputError: says how many epochs it is, and how many tokens would do.
        """
        epochs = self.sequences / corpus_sequences
        if epochs > max_epochs:
            readable = int(corpus_sequences * max_epochs)
            batches = readable // self.sequences_per_window * self.batches_per_window
            if batches == 0:  # less than a window: then a shorter run has a smaller one
                batches = readable * self.batches_per_window // self.sequences_per_window
            valid = (
                f"at most {batches * self.batch_size} here: that is {epochs:.2f} epochs of the corpus, "
                f"and data.max_epochs={max_epochs:g}"
            )
            raise InputError("data.train_tokens", self.train_tokens, valid)


@dataclass(frozen=True)
class ActivationStatistics:
    """Of clean training activations as the LM gives them: `scale * x` has a mean squared norm of `d_in`."""

    scale: float
    mean_D: Tensor

    def to_json(self) -> dict[str, Any]:
        """Exact: every float32 is a JSON number."""
        return {"scale": self.scale, "mean": self.mean_D.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ActivationStatistics":
        return cls(values["scale"], torch.tensor(values["mean"]))


class ActivationStream:
    """The training batches of a run, by index or in order.

    Attributes:
        scale: what the LM's activations are multiplied by.
        watch: the time that windows take.
    """

    def __init__(
        self,
        lm: LM,
        layout: Layout,
        plan: Plan,
        mask: TokenMask,
        *,
        loss_positions: str,
        clean_target: bool,
        lm_batch_size: int,
        seed: int,
    ) -> None:
        self._lm, self._layout, self.plan, self._mask = lm, layout, plan, mask
        self._loss_positions, self._clean_target = loss_positions, clean_target and not mask.is_off
        self._lm_batch_size, self._seed = lm_batch_size, seed
        self.scale = 1.0
        self.watch = Stopwatch(lm.device)
        self._window: _Window | None = None
        self._window_index = -1

    def batch(self, index: int) -> Batch:
        """Batch `index` of the run; computes its window unless that is the one at hand."""
        window_index, within = divmod(index, self.plan.batches_per_window)
        if window_index != self._window_index or self._window is None:
            self._window_index = -1  # until it is whole: the memory is that of the window before
            with self.watch:
                self._window = self._compute(window_index, reuse=self._window)
            self._window_index = window_index
        window = self._window
        rows_B = window.order_W[within * self.plan.batch_size : (within + 1) * self.plan.batch_size]
        x_BD = window.x_WD[rows_B]
        target_BD = x_BD if window.target_WD is None else window.target_WD[rows_B]
        return Batch(x_BD, target_BD, window.masked_share)

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches `start` to the last."""
        return (self.batch(index) for index in range(start, self.plan.steps))

    def statistics(self, tokens: int) -> ActivationStatistics:
        """Mean and mean squared norm over about `tokens` clean activations of the run's first sequences."""
        n_sequences = min(math.ceil(tokens / self._layout.content_length), len(self._layout))
        total_D = torch.zeros(self._lm.d_in, dtype=torch.float64)
        squares, count = 0.0, 0
        for first in range(0, n_sequences, self._lm_batch_size):
            tokens_NT, kept_NT = self._read(np.arange(first, min(first + self._lm_batch_size, n_sequences)))
            x_BD = self._lm.activations(tokens_NT)[kept_NT.to(self._lm.device)].double()
            _refuse_non_finite(x_BD, tokens_NT, kept_NT, self._lm)
            total_D += x_BD.sum(0).cpu()
            squares += x_BD.square().sum().item()
            count += len(x_BD)
        if squares == 0:
            raise NonFiniteError(f"the activations at {self._lm.hook_name} are all zero: nothing to scale")
        scale = math.sqrt(self._lm.d_in * count / squares)
        return ActivationStatistics(scale, (total_D / count).float())

    def _read(self, ordinals: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The sequences at these places of the run's order: a new seeded permutation of the corpus each epoch."""
        size = len(self._layout)
        indices = np.empty_like(ordinals)
        for epoch in np.unique(ordinals // size).tolist():
            here = ordinals // size == epoch
            indices[here] = permute(ordinals[here] % size, size, self._seed, epoch)
        return self._layout.read(indices)

    def _compute(self, index: int, reuse: "_Window | None") -> "_Window":
        plan = self.plan
        window = reuse or _Window.empty(plan.window_tokens, self._lm.d_in, self._lm.device, self._clean_target)
        filled = maskable = masked = 0
        first = index * plan.sequences_per_window
        for offset in range(0, plan.sequences_per_window, self._lm_batch_size):
            if filled == plan.window_tokens:
                break
            stop = min(offset + self._lm_batch_size, plan.sequences_per_window)
            ordinals = np.arange(first + offset, first + stop)
            tokens_NT, content_NT = self._read(ordinals)
            progress = (ordinals / max(1, plan.sequences - 1)).tolist()
            masked_tokens_NT, masked_NT = self._mask.apply(tokens_NT, content_NT, ordinals.tolist(), progress)
            kept_NT = _positions(content_NT, masked_NT, self._loss_positions)
            rows = slice(filled, min(filled + int(kept_NT.sum()), plan.window_tokens))
            window.fill(window.x_WD, rows, self._lm.activations(masked_tokens_NT), kept_NT, self.scale)
            _refuse_non_finite(window.x_WD[rows], masked_tokens_NT, kept_NT, self._lm)
            if window.target_WD is not None:
                window.fill(window.target_WD, rows, self._lm.activations(tokens_NT), kept_NT, self.scale)
                _refuse_non_finite(window.target_WD[rows], tokens_NT, kept_NT, self._lm)
            filled = rows.stop
            maskable += int(content_NT.sum())
            masked += int(masked_NT.sum())
        if filled == 0:
            raise InputError(
                "mask.token.loss_positions", self._loss_positions, f"positions to train on; window {index} has none"
            )
        window.order_W = self._shuffled(index, filled)
        window.masked_share = masked / max(1, maskable)
        return window

    def _shuffled(self, index: int, filled: int) -> Tensor:
        """Rows of the window in batch order. Chance may leave a little fewer than planned: then it begins anew."""
        order_W = torch.randperm(filled, generator=torch_generator(self._seed, "shuffle", index))
        return order_W.repeat(math.ceil(self.plan.window_tokens / filled))[: self.plan.window_tokens].to(
            self._lm.device
        )


@dataclass
class _Window:
    """Activations held at once; the memory serves one window after the other."""

    x_WD: Tensor
    target_WD: Tensor | None
    order_W: Tensor
    masked_share: float

    @classmethod
    def empty(cls, size: int, d_in: int, device: torch.device, with_target: bool) -> "_Window":
        target_WD = torch.empty(size, d_in, device=device) if with_target else None
        return cls(torch.empty(size, d_in, device=device), target_WD, torch.empty(0, dtype=torch.long), 0.0)

    @staticmethod
    def fill(into_WD: Tensor, rows: slice, x_NTD: Tensor, kept_NT: Tensor, scale: float) -> None:
        kept_WD = x_NTD[kept_NT.to(x_NTD.device)][: rows.stop - rows.start]
        torch.mul(kept_WD, scale, out=into_WD[rows])


def _positions(content_NT: Tensor, masked_NT: Tensor, loss_positions: str) -> Tensor:
    if loss_positions == "unmasked":
        return content_NT & ~masked_NT
    return content_NT & masked_NT if loss_positions == "masked" else content_NT


def _refuse_non_finite(x_BD: Tensor, tokens_NT: Tensor, kept_NT: Tensor, lm: LM) -> None:
    """Names the tokens behind the first NaN or infinity.

    Raises:
        NonFiniteError: there is one.
    """
    if torch.isfinite(x_BD.sum()) or torch.isfinite(x_BD).all():
        return
    bad = int((~torch.isfinite(x_BD).all(1)).nonzero()[0])
    row, position = kept_NT.nonzero()[bad].tolist()
    ids = tokens_NT[row, max(0, position - 8) : position + 1].tolist()
    raise NonFiniteError(
        f"NaN or infinity in the activations at {lm.hook_name}, position {position} of the tokens "
        f"{lm.tokenizer.decode(ids)!r} (ids {ids}); expected finite numbers: try lm.dtype=float32 or another LM"
    )
