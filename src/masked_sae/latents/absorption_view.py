"""What a page of absorption shows, of one run or of two side by side: which concepts, latents and positions.

Axes: W positions of one concept that are decided.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from masked_sae.errors import InputError
from masked_sae.evals.absorption_decisions import SUFFIXES, DecidedSet, decide_on_set
from masked_sae.evals.concept_probes import Ranking
from masked_sae.evals.context import EvalContext
from masked_sae.latents.absorption_cases import (
    Case,
    ConceptCases,
    ConceptLatent,
    Outcome,
    case_at,
    choose_places,
    concept_cases,
)
from masked_sae.latents.absorption_contexts import ContextReader, TokenInContext
from masked_sae.latents.pairing import Match, best_matches
from masked_sae.saes import InferenceSAE

_LATENTS = 12  # absorbing ones of a concept
_TOKENS = 5  # of an absorbing latent
_ALONE = {Outcome.ABSORBED: (24, 3), Outcome.MISSED: (6, 2)}  # positions of one run, and of those of one latent
_BESIDE = (8, 2)  # of each group of two


@dataclass(frozen=True)
class ShownLatent:
    """Attributes:
    tokens: of an absorbing latent, those at which it absorbs most often, and how often.
    more_tokens: how many others there are.
    match: the closest latent of the other run.
    role: what that one is to the concept there: main, absorbing or empty.
    """

    of: ConceptLatent
    tokens: Sequence[tuple[str, int]] = ()
    more_tokens: int = 0
    match: Match | None = None
    role: str = ""


@dataclass(frozen=True)
class Side:
    """A concept in one run.

    Attributes:
        absorbing: those that absorb most often.
    """

    cases: ConceptCases
    main: Sequence[ShownLatent]
    absorbing: Sequence[ShownLatent]

    @property
    def more_absorbing(self) -> int:
        return len(self.cases.absorbing) - len(self.absorbing)


@dataclass(frozen=True)
class ShownPosition:
    """Attributes:
    cases: what each run does there.
    """

    context: TokenInContext
    cases: Sequence[Case]


@dataclass(frozen=True)
class Group:
    """Positions that have something in common.

    Attributes:
        total: how many there are.
        of_one_latent: how many of those that one latent carries are shown at most.
    """

    name: str
    total: int
    of_one_latent: int
    shown: Sequence[ShownPosition]


@dataclass(frozen=True)
class ShownConcept:
    name: str
    probe_f1: float
    sides: Sequence[Side]
    groups: Sequence[Group]


@dataclass(frozen=True)
class ShownSet:
    """A set of concepts, by one way to choose their main latents.

    Attributes:
        metric: the key of its mean full absorption.
        means: of each run; empty where nothing can be measured.
        l0: of each run, on these texts.
        not_measurable: why.
        concepts: most absorbed first.
    """

    name: str
    ranking: Ranking
    metric: str
    means: Sequence[float]
    l0: Sequence[float]
    not_measurable: str | None
    concepts: Sequence[ShownConcept]


def shown_sets(saes: Sequence[InferenceSAE], context: EvalContext, names: Sequence[str]) -> list[ShownSet]:
    """Of one SAE, or of two on the same positions.

    Args:
        names: of the sets of concepts.
    """
    return [shown for name in names for shown in _shown(name, saes, context)]


def positions_by_outcome(sides: Sequence[ConceptCases], names: Sequence[str]) -> dict[str, list[int]]:
    """The places of a concept's positions: of one run those where it is absorbed and those where it is missed; of two,
    those where it is absorbed in the one only, in the other only, in both, and in neither.
    """
    outcomes = sides[0].outcomes
    if len(sides) == 1:
        return {_ALONE_CALLED[one]: [w for w, here in enumerate(outcomes) if here is one] for one in _ALONE}
    pairs = [tuple(one is Outcome.ABSORBED for one in both) for both in zip(outcomes, sides[1].outcomes, strict=True)]
    wanted = {f"absorbed in {names[0]} only": (True, False), f"absorbed in {names[1]} only": (False, True)}
    wanted |= {"absorbed in both": (True, True), "absorbed in neither": (False, False)}
    return {name: [w for w, pair in enumerate(pairs) if pair == which] for name, which in wanted.items()}


_ALONE_CALLED = {
    Outcome.ABSORBED: "no main latent fires, another carries the concept",
    Outcome.MISSED: "no main latent fires, and none carries enough",
}


def _shown(name: str, saes: Sequence[InferenceSAE], context: EvalContext) -> Iterable[ShownSet]:
    try:
        found = [decide_on_set(name, sae, context) for sae in saes]
    except InputError as error:  # too little text for these concepts, or an LM that they cannot be asked of
        yield ShownSet(name, "weight", "", (), (), str(error), ())
        return
    reader = ContextReader(context.lm.tokenizer, found[0].concepts.texts)
    l0 = [one.decisions.l0 for one in found]
    for ranking, suffix in SUFFIXES.items():
        metric = f"absorption/{name}/full_absorption{suffix}"
        decided = [one.decisions.by_ranking[ranking] for one in found]
        of_sides = [
            [concept_cases(one, concept) for one, concept in zip(found, both, strict=True)]
            for both in zip(*decided, strict=True)
        ]
        means = [fmean(sides[side].full_absorption for sides in of_sides) for side in range(len(saes)) if of_sides]
        of_sides.sort(key=lambda sides: (-max(one.full_absorption for one in sides), sides[0].concept))
        concepts = [_concept(found, sides, reader) for sides in of_sides]
        yield ShownSet(name, ranking, metric, means, l0, found[0].decisions.not_measurable, concepts)


def _concept(found: Sequence[DecidedSet], sides: Sequence[ConceptCases], reader: ContextReader) -> ShownConcept:
    probes = found[0].decisions.probes
    shown = [_side(one, cases, reader) for one, cases in zip(found, sides, strict=True)]
    if len(found) == 2:
        matches = _matches(found, shown)
        shown = [_paired(side, matches[i], sides[1 - i]) for i, side in enumerate(shown)]
    latent_W = _carriers(sides)
    groups: list[Group] = []
    for (name, places), (most, of_one) in zip(
        positions_by_outcome(sides, "AB").items(), _limits(len(sides)), strict=True
    ):
        chosen = choose_places(places, latent_W, most=most, of_one_latent=of_one)
        positions = [_position(found, sides, place, reader) for place in chosen]
        groups.append(Group(name, len(places), of_one, positions))
    return ShownConcept(sides[0].concept, probes.f1_C[sides[0].decided.concept].item(), shown, groups)


def _limits(sides: int) -> Sequence[tuple[int, int]]:
    return list(_ALONE.values()) if sides == 1 else [_BESIDE] * 4


def _carriers(sides: Sequence[ConceptCases]) -> torch.Tensor:
    """By which latent positions are grouped: of two runs, that of the one which absorbs there."""
    first = sides[0].decided.absorbed
    if len(sides) == 1:
        return first.latent_W
    second = sides[1].decided.absorbed
    return torch.where(second.full_W & ~first.full_W, second.latent_W, first.latent_W)


def _position(
    found: Sequence[DecidedSet], sides: Sequence[ConceptCases], place: int, reader: ContextReader
) -> ShownPosition:
    cases = [case_at(one, cases.decided, place) for one, cases in zip(found, sides, strict=True)]
    return ShownPosition(reader.at(cases[0].position), cases)


def _side(found: DecidedSet, cases: ConceptCases, reader: ContextReader) -> Side:
    absorbed = cases.decided.absorbed

    def shown(one: ConceptLatent) -> ShownLatent:
        rows_W = cases.decided.rows_W[absorbed.full_W & (absorbed.latent_W == one.latent)]
        return ShownLatent(one, *reader.most_common(rows_W, _TOKENS))

    return Side(cases, [ShownLatent(one) for one in cases.main], [shown(one) for one in cases.absorbing[:_LATENTS]])


def _matches(found: Sequence[DecidedSet], sides: Sequence[Side]) -> list[Mapping[int, Match]]:
    rows = [one.decisions.unit_FD for one in found]
    latents = [[one.of.latent for one in (*side.main, *side.absorbing)] for side in sides]
    return [best_matches(latents[i], rows[i], rows[1 - i]) for i in (0, 1)]


def _paired(side: Side, matches: Mapping[int, Match], other: ConceptCases) -> Side:
    roles = {one.latent: "absorbing" for one in other.absorbing} | {one.latent: "main" for one in other.main}

    def paired(one: ShownLatent) -> ShownLatent:
        match = matches.get(one.of.latent)
        return replace(one, match=match, role="" if match is None else roles.get(match.latent, ""))

    return replace(side, main=[paired(one) for one in side.main], absorbing=[paired(one) for one in side.absorbing])
