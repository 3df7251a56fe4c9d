"""ReLU SAE (Bricken et al. 2023, "Towards Monosemanticity"): the L1 norm of the latents is penalised. With P-annealing
(Karvonen et al. 2024, arXiv 2408.00113) the norm comes closer to counting them as training goes on.

Axes: F `d_sae`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masked_sae import checks
from masked_sae.saes.latent_support import Support
from masked_sae.saes.penalty_family import PenalizedSAE, PenalizedSettings
from masked_sae.saes.sae import Draws
from masked_sae.settings import neutral

LEAST_P = 0.01
SMALL = 0.01  # a latent, in units of activations of mean squared norm `d_in`: below it the price is a straight line


@dataclass(kw_only=True)
class Settings(PenalizedSettings):
    """Attributes:
    p_end: the exponent of the penalty at the end of training; 1: always the L1 norm.
    """

    p_end: float = neutral(1.0, label="P-annealing to p", cure=True)

    def check(self) -> None:
        super().check()
        checks.within("sae.p_end", self.p_end, LEAST_P, 1)

    def make(self, d_in: int, generator: torch.Generator) -> "ReLUSAE":
        shared = self.shared(generator)
        if self.p_end == 1:
            return ReLUSAE(d_in, self.d_sae, self.sparsity_coefficient, **shared)
        annealed = {"p_end": self.p_end, "anneal_after": self.sparsity_warmup_steps}
        return PAnnealedSAE(d_in, self.d_sae, self.sparsity_coefficient, **annealed, **shared)


class ReLUSAE(PenalizedSAE):
    """`f = relu((x - b_dec) W_enc + b_enc)`; the penalty is `sum f`, with decoder rows of unit norm."""

    def activate(self, pre: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        latents = torch.relu(pre)
        return latents, latents

    def thresholds(self) -> Tensor:
        return torch.zeros_like(self.b_enc_F)


class PAnnealedSAE(ReLUSAE):
    """The penalty of step `s` is `strength_s * sum f^p_s`: `p` falls from 1 to `p_end`, linearly.

    So that the penalty goes on as strong as it was, the paper multiplies its coefficient at each change of `p` by
    `sum f^p_(s-1) / sum f^p_s`, means over the latest batches. Chosen here, where it leaves room: `p` changes with
    every step, from the end of the penalty's warm-up to the end of training, and the sums are the step's own batch's.
    A latent below `SMALL` costs `f SMALL^(p-1)`, as at 0 the slope of `f^p` has no bound.

    Args:
        anneal_after: steps in which `p` stays at 1.
        others: as for `PenalizedSAE`.
    """

    strength: Tensor
    p: Tensor
    p_before: Tensor

    def __init__(self, *args: Any, p_end: float = 0.2, anneal_after: int = 0, **others: Any) -> None:
        super().__init__(*args, **others)
        self.p_end, self.anneal_after = p_end, anneal_after
        self.register_buffer("strength", torch.ones(()))
        for name in ("p", "p_before"):  # tensors, as numbers are constants to what is compiled
            self.register_buffer(name, torch.ones((), dtype=torch.float64), persistent=False)
        self.is_annealed = self.p_falls = False

    def begin_step(self, step: int, steps: int, draws: Draws) -> None:
        before, now = self._p_at(step - 1, steps), self._p_at(step, steps)
        self.is_annealed, self.p_falls = now < 1, now < before
        self.p_before.fill_(before)
        self.p.fill_(now)

    def _p_at(self, step: int, steps: int) -> float:
        share = (step - self.anneal_after) / max(1, steps - 1 - self.anneal_after)
        return 1 - (1 - self.p_end) * min(1.0, max(0.0, share))

    def penalty(self, penalized: Tensor) -> Tensor:
        price = (powers(penalized, self.p) if self.is_annealed else penalized).sum()
        if self.training and self.p_falls:
            self._go_on_as_strong(powers(penalized.detach(), self.p_before).sum(), price.detach())
        return self.strength * price

    @torch.no_grad()
    def _go_on_as_strong(self, before: Tensor, now: Tensor) -> None:
        before, now = self.shards.sum(self.ranks.sum(torch.stack([before, now])))
        factor = torch.where(now > 0, before / now, 1.0)  # where none is active nothing is learned
        self.strength = self.strength * factor  # not in place, as in `batch_topk.py`


def powers(f: Tensor, p: Tensor) -> Tensor:
    """`f^p` of numbers from 0 on, with a slope that has a bound."""
    return torch.where(f > SMALL, f.clamp_min(SMALL).pow(p), f * SMALL ** (p - 1))
