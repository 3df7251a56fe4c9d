"""Absorption: does a latent stay silent where its concept holds, while a more specific one carries the concept?

After Chanin et al. 2024, "A is for absorption" (arXiv 2409.14507), with SAEBench's definitions and settings.

Axes: P positions, W positions of one concept that its probe gets right, C concepts, D `d_in`, F `d_sae`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from masked_sae.evals.absorption_decisions import (
    SUFFIXES,
    ConceptDecisions,
    Decisions,
    decide_absorption,
    decide_on_set,
)
from masked_sae.evals.concept_probes import ConceptProbes, Ranking
from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, Wording, same_settings
from masked_sae.evals.texts.concepts import Concepts


@dataclass(frozen=True)
class ConceptAbsorption:
    """One concept.

    Attributes:
        probe_f1: of the ground-truth probe.
        sparse_f1: of the probes on 1, 2, … latents.
        split_latents: those that stand for the concept together.
        positions: test positions of the concept that the ground-truth probe gets right; the rates are means over them.
        full_absorption, absorption_fraction: see `absorption_at`.
    """

    concept: str
    probe_f1: float
    sparse_f1: tuple[float, ...]
    split_latents: tuple[int, ...]
    positions: int
    full_absorption: float
    absorption_fraction: float


@dataclass(frozen=True)
class PairAbsorption:
    """A general concept absorbed by a special case of it.

    Attributes:
        positions: test positions of the special case, that the general concept's probe gets right.
        absorbed: share of these with full absorption of the general concept by a split latent of the special one.
    """

    general: str
    special: str
    positions: int
    absorbed: float


@dataclass(frozen=True)
class AbsorptionResult:
    """Absorption on one set of concepts.

    Attributes:
        concepts: the measurable ones; empty where there are too few.
        pairs: of these, of a general concept and a special case, where the set tells of such.
        measurable: how many there are.
        l0: mean number of active latents at the test positions.
        not_measurable: why this LM cannot be measured, else None.
    """

    concepts: tuple[ConceptAbsorption, ...]
    pairs: tuple[PairAbsorption, ...]
    measurable: int
    l0: float
    not_measurable: str | None

    def metrics(self) -> dict[str, float]:
        """Means over the concepts; without them where nothing was measurable."""
        if self.not_measurable is not None:
            return {"concepts": float(self.measurable), "l0": self.l0}
        of_pairs = {"pair_absorption": fmean(pair.absorbed for pair in self.pairs)} if self.pairs else {}
        return of_pairs | {
            "full_absorption": fmean(concept.full_absorption for concept in self.concepts),
            "absorption_fraction": fmean(concept.absorption_fraction for concept in self.concepts),
            "split_latents": fmean(len(concept.split_latents) for concept in self.concepts),
            "concepts": float(self.measurable),
            "l0": self.l0,
        }


@torch.inference_mode()
def evaluate_absorption(
    concepts: Concepts,
    x_PD: Tensor,
    f_PF: Tensor | csr_array,
    W_dec_FD: Tensor,
    *,
    probes: ConceptProbes | None = None,
    rankings: Sequence[Ranking] = ("weight",),
    seed: int = 0,
) -> dict[Ranking, AbsorptionResult]:
    """Absorption of an SAE's latents on a set of concepts, by each way to choose a concept's latents.

    Args: as those of `decide_absorption`.
    """
    decisions = decide_absorption(concepts, x_PD, f_PF, W_dec_FD, probes=probes, rankings=rankings, seed=seed)
    return results_of(concepts, decisions)


def results_of(concepts: Concepts, decisions: Decisions) -> dict[Ranking, AbsorptionResult]:
    """Means over the positions that were decided."""
    return {ranking: _result(concepts, decisions, decided) for ranking, decided in decisions.by_ranking.items()}


def _result(concepts: Concepts, decisions: Decisions, decided: Sequence[ConceptDecisions]) -> AbsorptionResult:
    of_concept = {one.concept: one for one in decided}
    pairs: list[PairAbsorption] = []
    for general, special in concepts.pairs:
        if general in of_concept and special in of_concept:
            absorbed, rows_W = of_concept[general].absorbed, of_concept[general].rows_W
            both_W = concepts.labels_PC[rows_W, special]
            by_W = absorbed.full_W & torch.isin(absorbed.latent_W, torch.tensor(of_concept[special].split_latents))
            if both_W.any():
                share = by_W[both_W].double().mean().item()
                names = concepts.names[general], concepts.names[special]
                pairs.append(PairAbsorption(*names, int(both_W.sum()), share))
    found = tuple(_concept_absorption(concepts, decisions.probes, one) for one in decided)
    return AbsorptionResult(found, tuple(pairs), decisions.measurable, decisions.l0, decisions.not_measurable)


def _concept_absorption(concepts: Concepts, probes: ConceptProbes, decided: ConceptDecisions) -> ConceptAbsorption:
    return ConceptAbsorption(
        concept=concepts.names[decided.concept],
        probe_f1=probes.f1_C[decided.concept].item(),
        sparse_f1=decided.sparse_f1,
        split_latents=decided.split_latents,
        positions=len(decided.rows_W),
        full_absorption=decided.absorbed.full_W.double().mean().item(),
        absorption_fraction=decided.absorbed.fraction_W.double().mean().item(),
    )


_SHARED = ("concepts", "l0")  # whatever the ranking


def measure(evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    """On each set of concepts that is asked for, by either ranking of latents."""
    metrics: dict[str, float] = {}
    notes: dict[str, str] = {}
    details: dict[str, Any] = {}
    for name in context.settings.concepts:
        decided = decide_on_set(name, evaluated.sae, context)
        for ranking, found in results_of(decided.concepts, decided.decisions).items():
            suffix = SUFFIXES[ranking]
            for key, value in found.metrics().items():
                metrics[f"{name}/{key}{'' if key in _SHARED else suffix}"] = value
            details[f"{name}{suffix}"] = [asdict(concept) for concept in found.concepts]
            if found.pairs:
                details[f"{name}{suffix}/pairs"] = [asdict(pair) for pair in found.pairs]
            if found.not_measurable is not None:
                notes[name] = f"not measurable on this LM: {found.not_measurable}"
    return Measured(metrics, notes, details)


def _covers(measured: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """More sets of concepts than wanted do no harm."""
    had = measured.get("concepts", [])
    return set(wanted["concepts"]) <= set(had) and same_settings(measured, {**wanted, "concepts": had})


_LIKEWISE = "the same, with the concept's latents chosen by their contribution to a probe"
FAMILY = Family(
    "absorption",
    ("seed", "concepts", "concept_tokens", "concept_words"),
    measure,
    (
        Wording(
            r"(\w+)/full_absorption",
            "Full absorption ({0})",
            "share",
            "words on which no split latent fires and one other latent carries the concept, "
            "over words the probe gets right",
            "lower",
            headline=True,
            in_paper="absorption",
        ),
        Wording(
            r"(\w+)/full_absorption_by_contribution",
            "Full absorption by contribution ({0})",
            "share",
            f"{_LIKEWISE} instead of by its weight",
            "lower",
            headline=True,
            in_paper="absorption",
        ),
        Wording(
            r"(\w+)/pair_absorption",
            "Absorption by the special case ({0})",
            "share",
            "positions of a special case of a concept on which no split latent of the concept fires "
            "and one of the special case carries it, mean over pairs of concepts",
            "lower",
        ),
        Wording(
            r"(\w+)/pair_absorption_by_contribution",
            "Absorption by the special case, by contribution ({0})",
            "share",
            _LIKEWISE,
            "lower",
        ),
        Wording(
            r"(\w+)/absorption_fraction_by_contribution",
            "Absorption fraction by contribution ({0})",
            "share",
            _LIKEWISE,
            "lower",
        ),
        Wording(
            r"(\w+)/absorption_fraction",
            "Absorption fraction ({0})",
            "share",
            "what absorbing latents carry of what they and the main latents carry",
            "lower",
        ),
        Wording(
            r"(\w+)/split_latents_by_contribution",
            "Split latents by contribution ({0})",
            "latents per concept",
            _LIKEWISE,
        ),
        Wording(
            r"(\w+)/split_latents",
            "Split latents ({0})",
            "latents per concept",
            "latents that stand for one concept: as many as still raise the F1 of a probe on them",
        ),
        Wording(
            r"(\w+)/concepts",
            "Concepts measured ({0})",
            "concepts",
            "those that the LM's activations tell: with fewer than eval needs, absorption is not measured",
        ),
        Wording(r"(\w+)/l0", "L0 (absorption, {0})", "latents per token", "on the activations measured"),
    ),
    place=1,
    covers=_covers,
)
