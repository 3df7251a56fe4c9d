"""What absorption decides of an SAE at each position of a set of concepts: the metric is its means.

Axes: P positions, W positions of one concept that its probe gets right, C concepts, D `d_in`, F `d_sae`, K latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
from masked_sae.evals.context import EvalContext
from masked_sae.evals.texts.concepts import Concepts, first_letter, token_class
from masked_sae.evals.texts.span_sets import SPAN_SETS
from masked_sae.evals.texts.spans import concepts_of_spans
from masked_sae.saes import InferenceSAE

MINIMUM_F1 = 0.6  # a concept whose ground-truth probe is no better is left out
MAX_LATENTS = 10  # of a sparse probe
# SAEBench ranks latents by their weight in the L1 probe, which says little of latents that are strong and rare; their
# contribution to the probe's logit is measured beside it.
SUFFIXES: dict[Ranking, str] = {"weight": "", "contribution": "_by_contribution"}
_POSITIONS_AT_ONCE = 4096  # whose latents are dense at a time


@dataclass(frozen=True)
class ConceptDecisions:
    """Of one concept.

    Attributes:
        concept: its place among the set's.
        sparse_f1: of the probes on 1, 2, … latents.
        split_latents: those that stand for the concept together.
        rows_W: which positions of the set are decided: test positions of the concept that its probe gets right.
        absorbed: what was decided at each.
    """

    concept: int
    sparse_f1: tuple[float, ...]
    split_latents: tuple[int, ...]
    rows_W: Tensor
    absorbed: Absorbed


@dataclass(frozen=True)
class Decisions:
    """On a set of concepts.

    Attributes:
        probes: on the LM's activations.
        f_PF: the latents as they are measured: as if all decoder rows had norm 1.
        unit_FD: these rows.
        measurable: how many concepts are.
        l0: mean number of active latents at the test positions.
        not_measurable: why this LM cannot be measured, else None.
        by_ranking: the measurable concepts, by each way to choose a concept's latents; none where the LM cannot be
            measured.
    """

    probes: ConceptProbes
    f_PF: csr_array
    unit_FD: Tensor
    measurable: int
    l0: float
    not_measurable: str | None
    by_ranking: dict[Ranking, tuple[ConceptDecisions, ...]]


@torch.inference_mode()
def decide_absorption(
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
) -> Decisions:
    """What an SAE's latents do at a set of concepts, by each way to choose a concept's latents.

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
    latents_PF = _scaled(sparse_rows(f_PF), norm_F)
    f_test_PF = latents_PF[test_P.numpy()]
    l0 = float(np.count_nonzero(f_test_PF.data > 0) / f_test_PF.shape[0])
    measurable = (probes.f1_C > minimum_f1).nonzero()[:, 0].tolist()
    if len(measurable) < max(concepts.minimum, 1):
        reason = (
            f"{len(measurable)} of {len(concepts.names)} concepts have a ground-truth probe with an F1 over "
            f"{minimum_f1:g}; {max(concepts.minimum, 1)} are needed"
        )
        return Decisions(probes, latents_PF, unit_FD, len(measurable), l0, reason, dict.fromkeys(rankings, ()))
    train_PC = concepts.labels_PC[~test_P]
    ranked = rank_latents(latents_PF[~test_P.numpy()], train_PC, max_latents, seed, rankings=rankings)
    columns_PF = latents_PF.tocsc()
    x_test_PD = x_PD[test_P]
    right_PC = concepts.labels_PC[test_P] & (probes.linear.logits(x_test_PD) > 0)
    places_P = test_P.nonzero()[:, 0]

    def decide(concept: int, latents: list[int]) -> ConceptDecisions:
        f_PK = columns_PF[:, latents].toarray()
        f1 = sparse_probe_f1(f_PK, concepts.labels_PC[:, concept].numpy(), test_P.numpy())
        split = split_latents(latents, f1)
        right_W = right_PC[:, concept].nonzero()[:, 0]
        absorbed = absorbed_on(x_test_PD, f_test_PF, unit_FD, probes.linear.W_CD[concept], split, right_W)
        return ConceptDecisions(concept, f1, split, places_P[right_W], absorbed)

    by_ranking: dict[Ranking, tuple[ConceptDecisions, ...]] = {
        ranking: tuple(decide(concept, ranked_CK[concept].tolist()) for concept in measurable)
        for ranking, ranked_CK in ranked.items()
    }
    return Decisions(probes, latents_PF, unit_FD, len(measurable), l0, None, by_ranking)


def _scaled(f_PF: csr_array, factor_F: Tensor) -> csr_array:
    return csr_array((f_PF.data * factor_F.numpy()[f_PF.indices], f_PF.indices, f_PF.indptr), shape=f_PF.shape)


@dataclass(frozen=True)
class DecidedSet:
    """Attributes:
    x_PD: the LM's activations at the concepts' positions.
    """

    concepts: Concepts
    x_PD: Tensor
    decisions: Decisions


def decide_on_set(name: str, sae: InferenceSAE, context: EvalContext) -> DecidedSet:
    """Of one of the sets of concepts, by either ranking of latents."""
    seed, lm = context.settings.seed, context.lm
    concepts = _concepts(name, context)
    x_PD = context.cache.read(lm, concepts.texts, f"absorption/{name}")
    probes = context.once(("concept probes", name), lambda: fit_concept_probes(concepts, x_PD, seed=seed))
    chunks = x_PD.split(_POSITIONS_AT_ONCE)
    f_PF = csr_array(vstack([sparse_rows(sae.encode(some.to(lm.gives_on))) for some in chunks]))
    rankings = tuple(SUFFIXES)
    decisions = decide_absorption(concepts, x_PD, f_PF, sae.W_dec_FD, probes=probes, rankings=rankings, seed=seed)
    return DecidedSet(concepts, x_PD, decisions)


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
