"""A concept's positions one by one: whether its main latents fire there, and which latent carries it where they do not,
with the numbers that decided. Main latents are those that stand for the concept: the metric's split latents.

Axes: P positions of a set of concepts, W those of one concept that are decided, M latents looked at, F `d_sae`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.evals.absorbed import SILENT
from masked_sae.evals.absorption_decisions import ConceptDecisions, DecidedSet


class Outcome(StrEnum):
    """At one position: a main latent fires; none does, and one other latent carries the concept (full absorption); or
    none does, and none carries enough of it.
    """

    FIRES = "fires"
    ABSORBED = "absorbed"
    MISSED = "missed"


@dataclass(frozen=True)
class ConceptLatent:
    """What a latent has to do with a concept.

    Attributes:
        cosine: of its decoder row with the concept's probe.
        fires: at how many of the concept's positions.
        absorbs: at how many of them it carries the concept in place of the main latents.
        f1: of a main latent: that of the probe on it and those before it.
    """

    latent: int
    cosine: float
    fires: int
    absorbs: int
    f1: float | None = None


@dataclass(frozen=True)
class Case:
    """One position, in numbers; activations are as if decoder rows had norm 1.

    Attributes:
        place: among the concept's decided positions.
        position: among those of the set of concepts.
        logit: of the concept's probe.
        along: the projection of the LM's activation on the probe's direction.
        main: the activation of each main latent.
        latent: the one that carries most of the projection.
        activation, cosine, carried: that one's; what it carries is the product of the others.
        fraction: the absorption fraction.
    """

    place: int
    position: int
    outcome: Outcome
    logit: float
    along: float
    main: tuple[float, ...]
    latent: int
    activation: float
    cosine: float
    carried: float
    fraction: float

    @property
    def share(self) -> float | None:
        """Of the projection, that the latent carries; None where the activation does not point to the concept."""
        return self.carried / self.along if self.along > 0 else None


@dataclass(frozen=True)
class ConceptCases:
    """One concept in one SAE.

    Attributes:
        main: the main latents, best first.
        absorbing: that have absorbed it somewhere, most often first.
        outcomes: at each decided position.
    """

    concept: str
    decided: ConceptDecisions
    main: tuple[ConceptLatent, ...]
    absorbing: tuple[ConceptLatent, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def positions(self) -> int:
        return len(self.outcomes)

    @property
    def full_absorption(self) -> float:
        return self.decided.absorbed.full_W.double().mean().item()  # as the metric has it, to the bit

    def count(self, outcome: Outcome) -> int:
        return self.outcomes.count(outcome)


@torch.inference_mode()
def concept_cases(found: DecidedSet, decided: ConceptDecisions) -> ConceptCases:
    """What was decided of a concept, by latents and by positions."""
    absorbed = decided.absorbed
    absorbs: Counter[int] = Counter(absorbed.latent_W[absorbed.full_W].tolist())
    carriers = sorted(absorbs, key=lambda latent: (-absorbs[latent], latent))
    latents = [*decided.split_latents, *carriers]
    f_WM = found.decisions.f_PF[decided.rows_W.numpy()].tocsc()[:, latents].toarray()
    fires_M = (f_WM >= SILENT).sum(0).tolist()
    cosine_M = (found.decisions.unit_FD[latents] @ _direction(found, decided)).tolist()
    f1_M = [*decided.sparse_f1[: len(decided.split_latents)], *(None for _ in carriers)]
    known = [
        ConceptLatent(latent, cosine, fires, absorbs[latent], f1)
        for latent, cosine, fires, f1 in zip(latents, cosine_M, fires_M, f1_M, strict=True)
    ]
    first = len(decided.split_latents)
    return ConceptCases(
        found.concepts.names[decided.concept],
        decided,
        tuple(known[:first]),
        tuple(known[first:]),
        tuple(map(_outcome, absorbed.silent_W.tolist(), absorbed.full_W.tolist())),
    )


@torch.inference_mode()
def case_at(found: DecidedSet, decided: ConceptDecisions, place: int) -> Case:
    """The numbers behind one decision."""
    absorbed, position = decided.absorbed, int(decided.rows_W[place])
    latent = int(absorbed.latent_W[place])
    f_F = torch.from_numpy(found.decisions.f_PF[[position]].toarray()[0])
    logit_C = found.decisions.probes.linear.logits(found.x_PD[position : position + 1])[0]
    return Case(
        place=place,
        position=position,
        outcome=_outcome(bool(absorbed.silent_W[place]), bool(absorbed.full_W[place])),
        logit=logit_C[decided.concept].item(),
        along=absorbed.along_W[place].item(),
        main=tuple(f_F[list(decided.split_latents)].tolist()),
        latent=latent,
        activation=f_F[latent].item(),
        cosine=(found.decisions.unit_FD[latent] @ _direction(found, decided)).item(),
        carried=absorbed.carried_W[place].item(),
        fraction=absorbed.fraction_W[place].item(),
    )


def choose_places(places: Sequence[int], latent_W: Tensor, *, most: int, of_one_latent: int) -> list[int]:
    """At most so many of these places, and of those that one latent carries no more than so many, so that rare latents
    are seen, too; those of the latents that carry most of them first.
    """
    by_latent: dict[int, list[int]] = {}
    for place in places:
        by_latent.setdefault(int(latent_W[place]), []).append(place)
    ordered = sorted(by_latent.values(), key=lambda of_latent: (-len(of_latent), of_latent[0]))
    return [place for of_latent in ordered for place in _spread(of_latent, of_one_latent)][:most]


def _spread(places: Sequence[int], most: int) -> list[int]:
    """From first to last, so that they are of several texts."""
    if len(places) <= most:
        return list(places)
    return [places[i * len(places) // most] for i in range(most)]


def _direction(found: DecidedSet, decided: ConceptDecisions) -> Tensor:
    return F.normalize(found.decisions.probes.linear.W_CD[decided.concept], dim=0)


def _outcome(silent: bool, full: bool) -> Outcome:
    if full:
        return Outcome.ABSORBED
    return Outcome.MISSED if silent else Outcome.FIRES
