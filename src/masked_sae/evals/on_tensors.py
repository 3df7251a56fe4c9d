"""Metrics of an SAE on activations of one's own: what the families compute, without an LM or a text.

Axes: B activations, P positions, N texts, C concepts or classes, D `d_in`, F `d_sae`.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from masked_sae.evals.absorption import AbsorptionResult, evaluate_absorption
from masked_sae.evals.concept_probes import Ranking
from masked_sae.evals.core import ReconstructionMetrics, ReconstructionSums
from masked_sae.evals.sparse_probing import KS, ProbeAccuracies, SparseProbing, probe_accuracies
from masked_sae.evals.texts.activation_cache import TokenizedTexts
from masked_sae.evals.texts.concepts import Concepts
from masked_sae.evals.tpp import NS, Tpp, fit_tpp_probes, tpp
from masked_sae.saes import InferenceSAE

DENSE_FREQUENCY = 0.1
_ROWS_AT_ONCE = 4096


def measure_reconstruction(
    sae: InferenceSAE, x_BD: Tensor, *, dense_frequency: float = DENSE_FREQUENCY
) -> ReconstructionMetrics:
    """L0, explained variance, dead latents and what else `core` has that needs no LM.

    Args:
        x_BD: activations as the LM gives them.
        dense_frequency: a latent is dense if it fires on a larger share of them.
    """
    return measure_reconstruction_of(sae, x_BD.split(_ROWS_AT_ONCE), dense_frequency=dense_frequency)


def measure_reconstruction_of(
    sae: InferenceSAE, batches: Iterable[Tensor], *, dense_frequency: float = DENSE_FREQUENCY
) -> ReconstructionMetrics:
    """As `measure_reconstruction`, of more activations than fit in memory."""
    return _sums(sae, batches).metrics(dense_frequency)


def latent_frequency(sae: InferenceSAE, x_BD: Tensor) -> Tensor:
    """The share of activations that each latent fires on, float64, (F,)."""
    return _sums(sae, x_BD.split(_ROWS_AT_ONCE)).frequency_F


@torch.inference_mode()
def _sums(sae: InferenceSAE, batches: Iterable[Tensor]) -> ReconstructionSums:
    sums = ReconstructionSums(sae.d_in, sae.d_sae)
    for x_BD in batches:
        sums.reconstruct(sae, x_BD.to(sae.device, torch.float32))
    return sums


def measure_absorption(
    sae: InferenceSAE,
    x_PD: Tensor,
    labels_PC: Tensor,
    test_P: Tensor,
    *,
    names: Sequence[str] | None = None,
    pairs: Sequence[tuple[int, int]] = (),
    ranking: Ranking = "weight",
    seed: int = 0,
) -> AbsorptionResult:
    """How often the latents of a concept are silent where it holds while another latent carries it, as the family
    `absorption` has it.

    Args:
        x_PD: activations at positions where concepts hold, or do not.
        labels_PC: bool, which do.
        test_P: bool; probes are fitted on the other positions.
        names: of the concepts.
        pairs: of a general concept and a special case of it, by their places.
        ranking: how a concept's latents are chosen; SAEBench's by default.
        seed: of the order of the probes' batches.
    """
    P, C = labels_PC.shape
    one_each = TokenizedTexts(
        torch.zeros(P, 1, dtype=torch.long), torch.ones(P, dtype=torch.long), torch.ones(P, 1, dtype=torch.bool)
    )
    called = tuple(names) if names is not None else tuple(str(concept) for concept in range(C))
    concepts = Concepts("own", one_each, called, labels_PC.cpu(), test_P.cpu(), minimum=1, pairs=tuple(pairs))
    x_PD = x_PD.to(sae.device, torch.float32)
    f_PF = sae.encode_sparse(x_PD)
    return evaluate_absorption(concepts, x_PD, f_PF, sae.W_dec_FD, rankings=(ranking,), seed=seed)[ranking]


def measure_sparse_probing(
    sae: InferenceSAE,
    x_PD: Tensor,
    text_P: Tensor,
    labels_N: Tensor,
    train_N: Tensor,
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
) -> SparseProbing:
    """How well one, two or five latents tell the classes of texts, as the family `sparse_probing` has it, and how well
    the activations do.

    Args:
        x_PD: activations of all texts.
        text_P: int64, which text each is of, 0 to N - 1.
        labels_N: int64, each text's class, 0 to C - 1.
        train_N: bool; the other texts test.
    """
    x_ND, f_NF = _means(sae, x_PD, text_P, len(labels_N))

    def on(values_NE: Tensor) -> ProbeAccuracies:
        return probe_accuracies(values_NE, labels_N.cpu(), train_N.cpu(), ks=ks, seed=seed)

    return SparseProbing(on(f_NF * sae.W_dec_FD.norm(dim=1).cpu()), on(x_ND))


def measure_tpp(
    sae: InferenceSAE,
    x_PD: Tensor,
    text_P: Tensor,
    labels_N: Tensor,
    train_N: Tensor,
    *,
    ns: Sequence[int] = NS,
    seed: int = 0,
) -> Tpp:
    """Targeted probe perturbation: whether ablating the latents of one class disturbs the probe of that class alone, as
    the family `tpp` has it.

    Args: as for `measure_sparse_probing`.
    """
    x_ND, f_NF = _means(sae, x_PD, text_P, len(labels_N))
    fitted = fit_tpp_probes(x_ND, labels_N.cpu(), train_N.cpu(), seed=seed)
    return tpp(fitted, f_NF, sae.W_dec_FD.cpu(), ns=ns)


@torch.inference_mode()
def _means(sae: InferenceSAE, x_PD: Tensor, text_P: Tensor, texts: int) -> tuple[Tensor, Tensor]:
    """Of activations (N, D) and latents (N, F) over each text; a few activations at a time are encoded."""
    x_ND, f_NF = torch.zeros(texts, sae.d_in), torch.zeros(texts, sae.d_sae)
    for x_BD, text_B in zip(x_PD.split(_ROWS_AT_ONCE), text_P.cpu().split(_ROWS_AT_ONCE), strict=True):
        x_ND.index_add_(0, text_B, x_BD.cpu().float())
        f_NF.index_add_(0, text_B, sae.encode(x_BD.to(sae.device)).cpu())
    count_N1 = text_P.cpu().bincount(minlength=texts).clamp_min(1)[:, None]
    return x_ND / count_N1, f_NF / count_N1
