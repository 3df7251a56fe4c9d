"""Absorption: does a latent stay silent where its concept holds, while a more specific one carries the concept?

After Chanin et al. 2024, "A is for absorption" (arXiv 2409.14507), with SAEBench's definitions and settings.

Axes: P positions, W positions of one concept that its probe gets right, C concepts, D `d_in`, F `d_sae`, K latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from masked_sae.evals.absorbed import Absorbed, absorbed_on, split_latents
from masked_sae.evals.concept_probes import (
    ConceptProbes,
    Ranking,
    fit_concept_probes,
    rank_latents,
    sparse_probe_f1,
    sparse_rows,
)
from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, Wording, same_settings
from masked_sae.evals.texts.concepts import Concepts, first_letter, token_class
from masked_sae.evals.texts.span_sets import SPAN_SETS
from masked_sae.evals.texts.spans import concepts_of_spans
from masked_sae.saes import InferenceSAE

MINIMUM_F1 = 0.6  # a concept whose ground-truth probe is no better is left out
MAX_LATENTS = 10  # of a sparse probe


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
    minimum_f1: float = MINIMUM_F1,
    max_latents: int = MAX_LATENTS,
    rankings: Sequence[Ranking] = ("weight",),
    seed: int = 0,
) -> dict[Ranking, AbsorptionResult]:
    """Absorption of an SAE's latents on a set of concepts, by each way to choose a concept's latents.

    Args:
        x_PD: activations at the concepts' positions as the LM gives them, float32: L1 decay and the sparse probes'
            regularisation take the latents in the LM's units, as SAEBench does.
        f_PF: the latents of these activations, in the same units; dense, or sparse, where they are many.
        W_dec_FD: decoder rows. They may have any norm: latents are measured as if all had norm 1.
        probes: of `fit_concept_probes`, which else is called.
        minimum_f1: a concept is measurable if its ground-truth probe's F1 is higher.
        rankings: see `rank_latents`; SAEBench's by default.
        seed: of the order of the probes' batches.
    """
    x_PD, W_dec_FD, test_P = x_PD.cpu().float(), W_dec_FD.detach().cpu().float(), concepts.test_P
    probes = probes or fit_concept_probes(concepts, x_PD, seed=seed)
    norm_F = W_dec_FD.norm(dim=1)
    unit_FD = W_dec_FD / norm_F.clamp_min(1e-12)[:, None]
    latents_PF = sparse_rows(f_PF)
    latents_PF = csr_array(
        (latents_PF.data * norm_F.numpy()[latents_PF.indices], latents_PF.indices, latents_PF.indptr),
        shape=latents_PF.shape,
    )
    f_test_PF = latents_PF[test_P.numpy()]
    l0 = float(np.count_nonzero(f_test_PF.data > 0) / f_test_PF.shape[0])
    measurable = (probes.f1_C > minimum_f1).nonzero()[:, 0].tolist()
    if len(measurable) < max(concepts.minimum, 1):
        reason = (
            f"{len(measurable)} of {len(concepts.names)} concepts have a ground-truth probe with an F1 over "
            f"{minimum_f1:g}; {max(concepts.minimum, 1)} are needed"
        )
        return dict.fromkeys(rankings, AbsorptionResult((), (), len(measurable), l0, reason))
    train_PC = concepts.labels_PC[~test_P]
    ranked = rank_latents(latents_PF[~test_P.numpy()], train_PC, max_latents, seed, rankings=rankings)
    columns_PF = latents_PF.tocsc()
    x_test_PD, labels_test_PC = x_PD[test_P], concepts.labels_PC[test_P]
    right_PC = labels_test_PC & (probes.linear.logits(x_test_PD) > 0)

    def measure(concept: int, latents: list[int]) -> tuple[ConceptAbsorption, Absorbed, Tensor]:
        f_PK = columns_PF[:, latents].toarray()
        f1 = sparse_probe_f1(f_PK, concepts.labels_PC[:, concept].numpy(), test_P.numpy())
        split = split_latents(latents, f1)
        right_W = right_PC[:, concept].nonzero()[:, 0]
        absorbed = absorbed_on(x_test_PD, f_test_PF, unit_FD, probes.linear.W_CD[concept], split, right_W)
        found = ConceptAbsorption(
            concept=concepts.names[concept],
            probe_f1=probes.f1_C[concept].item(),
            sparse_f1=f1,
            split_latents=split,
            positions=len(right_W),
            full_absorption=absorbed.full_W.double().mean().item(),
            absorption_fraction=absorbed.fraction_W.double().mean().item(),
        )
        return found, absorbed, right_W

    def result(ranked_CK: Tensor) -> AbsorptionResult:
        measured = {concept: measure(concept, ranked_CK[concept].tolist()) for concept in measurable}
        pairs: list[PairAbsorption] = []
        for general, special in concepts.pairs:
            if general in measured and special in measured:
                (one, absorbed, right_W), (other, *_) = measured[general], measured[special]
                both_W = labels_test_PC[right_W, special]
                by_W = absorbed.full_W & torch.isin(absorbed.latent_W, torch.tensor(other.split_latents))
                if both_W.any():
                    share = by_W[both_W].double().mean().item()
                    pairs.append(PairAbsorption(one.concept, other.concept, int(both_W.sum()), share))
        return AbsorptionResult(
            tuple(found for found, *_ in measured.values()), tuple(pairs), len(measurable), l0, None
        )

    return {ranking: result(ranked_CK) for ranking, ranked_CK in ranked.items()}


# SAEBench ranks latents by their weight in the L1 probe, which says little of latents that are strong and rare; their
# contribution to the probe's logit is measured beside it.
_SUFFIXES: dict[Ranking, str] = {"weight": "", "contribution": "_by_contribution"}
_SHARED = ("concepts", "l0")  # whatever the ranking
_POSITIONS_AT_ONCE = 4096  # whose latents are dense at a time


def measure(evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    """On each set of concepts that is asked for, by either ranking of latents."""
    metrics: dict[str, float] = {}
    notes: dict[str, str] = {}
    details: dict[str, Any] = {}
    for name in context.settings.concepts:
        for ranking, found in _on_concepts(name, evaluated.sae, context).items():
            suffix = _SUFFIXES[ranking]
            for key, value in found.metrics().items():
                metrics[f"{name}/{key}{'' if key in _SHARED else suffix}"] = value
            details[f"{name}{suffix}"] = [asdict(concept) for concept in found.concepts]
            if found.pairs:
                details[f"{name}{suffix}/pairs"] = [asdict(pair) for pair in found.pairs]
            if found.not_measurable is not None:
                notes[name] = f"not measurable on this LM: {found.not_measurable}"
    return Measured(metrics, notes, details)


def _on_concepts(name: str, sae: InferenceSAE, context: EvalContext) -> dict[Ranking, AbsorptionResult]:
    seed, lm = context.settings.seed, context.lm
    concepts = _concepts(name, context)
    x_PD = context.cache.read(lm, concepts.texts, f"absorption/{name}")
    probes = context.once(("concept probes", name), lambda: fit_concept_probes(concepts, x_PD, seed=seed))
    chunks = x_PD.split(_POSITIONS_AT_ONCE)
    f_PF = csr_array(vstack([sparse_rows(sae.encode(some.to(lm.device))) for some in chunks]))
    return evaluate_absorption(concepts, x_PD, f_PF, sae.W_dec_FD, probes=probes, rankings=tuple(_SUFFIXES), seed=seed)


def _concepts(name: str, context: EvalContext) -> Concepts:
    lm, settings = context.lm, context.settings
    if name == "first_letter":
        words, seed = settings.concept_words, settings.seed
        return context.texts_once((name, words, seed), lambda: first_letter(lm, words=words, seed=seed))
    tokens, seed = settings.concept_tokens, settings.seed
    if name in SPAN_SETS:
        length = context.held_out.content_length
        made = lambda: concepts_of_spans(SPAN_SETS[name], lm, length=length, tokens=tokens, seed=seed)  # noqa: E731
        return context.texts_once((name, length, tokens, seed), made)
    made = lambda: token_class(lm, context.held_out, tokens=tokens, seed=seed)  # noqa: E731
    return context.texts_once((name, tokens, seed), made)


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
