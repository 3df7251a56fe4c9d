"""The paper's method (arXiv 2604.06495): tokens are replaced before the LM reads them.

Axes: N sequences, T positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae import checks
from masked_sae.errors import InputError
from masked_sae.masks.mask import Mask, MaskSettings
from masked_sae.masks.replacement import replacement_ids
from masked_sae.randomness import numpy_generator
from masked_sae.settings import neutral, setting

LOSS_POSITIONS = ("all", "unmasked", "masked")
TARGETS = ("masked", "clean")
LONGEST_SPAN = 1e9
SCHEDULES = ("constant", "linear", "cosine", "step")


@dataclass(kw_only=True)
class Settings(MaskSettings):
    """Attributes:
    rate: expected share of maskable tokens that are replaced; the schedule ends there.
    replacement: see `replacement_ids`.
    loss_positions: which positions the SAE is trained on.
    target: what it has to give back: what the LM computes on the masked text, or at the same place of the clean one.
    span: mean length of a masked span; 1 masks tokens independently.
    initial_rate: where a schedule that is not constant starts.
    last_share: of the training, that a step schedule gives to the last rate.
    """

    rate: float = setting(0.0, label="mask rate", unit="share of tokens")
    replacement: str = "bos"
    loss_positions: str = "all"
    target: str = "masked"
    span: float = setting(1.0, unit="tokens")
    schedule: str = "constant"
    initial_rate: float = setting(0.0, unit="share of tokens")
    last_share: float = neutral(0.1)

    def check(self, key: str) -> None:
        super().check(key)
        checks.share(f"{key}.initial_rate", self.initial_rate)
        checks.share(f"{key}.last_share", self.last_share)
        checks.one_of(f"{key}.loss_positions", self.loss_positions, LOSS_POSITIONS)
        checks.one_of(f"{key}.target", self.target, TARGETS)
        checks.one_of(f"{key}.schedule", self.schedule, SCHEDULES)
        if not self.span >= 1:
            raise InputError(f"{key}.span", self.span, "a mean span length of at least 1 (1: independent tokens)")
        checks.within(f"{key}.span", self.span, 1, LONGEST_SPAN)
        lowest, highest = self._rates()
        if self.loss_positions == "masked" and lowest == 0:
            which = "rate" if self.rate == 0 else "initial_rate"
            raise InputError(f"{key}.{which}", 0, f"above 0 while {key}.loss_positions=masked: nothing is masked")
        if self.loss_positions == "unmasked" and highest == 1:
            which = "rate" if self.rate == 1 else "initial_rate"
            raise InputError(f"{key}.{which}", 1, f"under 1 while {key}.loss_positions=unmasked: all is masked")

    @property
    def is_off(self) -> bool:
        return self._rates()[1] == 0

    def effective(self) -> dict[str, Any]:
        """A constant rate starts nowhere else, and only a step has a place."""
        settings = super().effective()
        if self.schedule == "constant":
            settings.pop("initial_rate", None)
        if self.schedule != "step":
            settings.pop("last_share", None)
        return settings

    def kept_share(self) -> float:
        lowest, highest = self._rates()
        return {"all": 1.0, "unmasked": 1 - highest, "masked": lowest}[self.loss_positions]

    def make(self, name: str, tokenizer: Any, seed: int) -> "TokenMask":
        return TokenMask(
            name=name,
            rate=self.rate,
            initial_rate=self.initial_rate,
            schedule=self.schedule,
            last_share=self.last_share,
            span=self.span,
            replacement=replacement_ids(tokenizer, self.replacement, f"mask.{name}.replacement"),
            random_ids=np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids),
            loss_positions=self.loss_positions,
            target=self.target,
            seed=seed,
        )

    def _rates(self) -> tuple[float, float]:
        """The lowest and the highest rate that the schedule takes."""
        if self.schedule == "constant":
            return self.rate, self.rate
        return min(self.rate, self.initial_rate), max(self.rate, self.initial_rate)


@dataclass(frozen=True)
class TokenMask(Mask):
    """See `Settings`.

    Attributes:
        replacement: the token ids written, in turn over a sequence's masked positions; None for random ones out of
            `random_ids`.
        random_ids: the vocabulary that random replacements come from.
        seed: of the run.
    """

    name: str
    rate: float
    initial_rate: float
    schedule: str
    last_share: float
    span: float
    replacement: tuple[int, ...] | None
    random_ids: NDArray[np.int64]
    loss_positions: str
    target: str
    seed: int

    @property
    def wants_clean_target(self) -> bool:
        return self.target == "clean"

    def rate_at(self, progress: float) -> float:
        """The rate after a share `progress` of the training."""
        if self.schedule == "constant":
            return self.rate
        if self.schedule == "step":
            return self.rate if progress >= 1 - self.last_share else self.initial_rate
        done = progress if self.schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return self.initial_rate + (self.rate - self.initial_rate) * done

    def mask_tokens(
        self, tokens_NT: Tensor, maskable_NT: Tensor, ordinals: Sequence[int], progress: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        length = tokens_NT.shape[1]
        maskable = maskable_NT.numpy()
        masked = np.empty(tokens_NT.shape, dtype=bool)
        written = np.empty(tokens_NT.shape, dtype=np.int64)
        for row, (ordinal, done) in enumerate(zip(ordinals, progress, strict=True)):
            rng = numpy_generator(self.seed, f"{self.name} mask", ordinal)
            masked[row] = draw_spans(rng, length, self.rate_at(done), self.span) & maskable[row]
            if self.replacement is None:
                written[row] = self.random_ids[rng.integers(0, len(self.random_ids), size=length)]
            else:
                written[row] = np.take(self.replacement, masked[row].cumsum() - 1, mode="wrap")
        masked_NT = torch.from_numpy(masked)
        return torch.where(masked_NT, torch.from_numpy(written), tokens_NT), masked_NT

    def counted(self, masked_NT: Tensor) -> Tensor:
        if self.loss_positions == "unmasked":
            return ~masked_NT
        return masked_NT if self.loss_positions == "masked" else torch.ones_like(masked_NT)


def draw_spans(rng: np.random.Generator, length: int, rate: float, span: float) -> NDArray[np.bool_]:
    """A (T,) mask: every position is masked with probability `rate`, in spans of mean length `span`.

    At each position a new span starts with probability `s`; else a span under way goes on with probability
    `q = 1 - 1/span`. The chain starts in its stationary distribution, so the marginal is `rate` everywhere:
    `rate = s + (1 - s) q rate` gives `s = rate (1 - q) / (1 - rate q)`.
    """
    q = 1 - 1 / span
    start = rate * (1 - q) / (1 - rate * q) if rate < 1 else 1.0
    u_T = rng.random(length)
    if q == 0:
        return u_T < start
    go_on = start + (1 - start) * q
    mask_T = np.empty(length, dtype=bool)
    under_way = u_T[0] < rate
    mask_T[0] = under_way
    for t in range(1, length):
        under_way = u_T[t] < (go_on if under_way else start)
        mask_T[t] = under_way
    return mask_T
