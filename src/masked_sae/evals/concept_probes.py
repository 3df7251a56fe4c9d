"""Linear probes of many concepts at once, on activations or on sparse latents, and probes on a few latents.

Axes: P positions, B positions of a batch, C concepts, E what a probe reads (`d_in` or `d_sae`), F `d_sae`, K latents of
a sparse probe, best first, R rows of a problem made smaller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from masked_sae.evals.text_probes import LinearProbes
from masked_sae.evals.texts.concepts import Concepts
from masked_sae.randomness import torch_generator

Ranking = Literal["weight", "contribution"]


@dataclass(frozen=True)
class ProbeFit:
    """How probes are fitted; the defaults are SAEBench's for its ground truth.

    Attributes:
        weight_decay: Adam's own (added to the gradient), of weights and biases.
        l1_decay: weight of the sum of a concept's absolute weights.
        learning_rate, final_learning_rate: decays from one to the other, by the same factor each epoch.
    """

    weight_decay: float = 1e-4
    l1_decay: float = 0.0
    learning_rate: float = 1e-2
    final_learning_rate: float = 1e-5
    epochs: int = 50
    batch_size: int = 4096


# SAEBench's for the probe that picks latents.
SPARSE_FIT = ProbeFit(weight_decay=1e-6, l1_decay=0.01)


@torch.no_grad()
def fit_probes(x_PE: Tensor | csr_array, labels_PC: Tensor, fit: ProbeFit, seed: int) -> LinearProbes:
    """One-vs-rest logistic regressions of all concepts, by Adam; positives weigh as much as negatives do.

    The loss is the mean over positions and concepts of the cross entropy, a positive's multiplied by the concept's
    negatives per positive, and `l1_decay * mean_c ||weight_c||_1`. The weights start at zero, where SAEBench draws
    them: so permuting what the probe reads permutes the weights, and what never varies keeps weight 0.

    Args:
        x_PE: activations, or latents as sparse rows, float32.
        labels_PC: bool.
        seed: of the order of the batches.
    """
    positions, concepts = labels_PC.shape
    width: int = cast(Any, x_PE).shape[1]  # scipy's arrays come without types
    y_PC = labels_PC.float()
    positives_C = y_PC.sum(0)
    positive_weight_C = (positions - positives_C) / positives_C.clamp_min(1)
    weight_EC, bias_C = torch.zeros(width, concepts), torch.zeros(concepts)
    adam = torch.optim.Adam([weight_EC, bias_C], lr=fit.learning_rate, weight_decay=fit.weight_decay)
    decay = (fit.final_learning_rate / fit.learning_rate) ** (1 / fit.epochs)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, decay)
    generator = torch_generator(seed, "probe batches")
    for _ in range(fit.epochs):
        order_P = torch.randperm(positions, generator=generator)
        for rows_B in order_P.split(fit.batch_size):
            one_batch = len(rows_B) == positions  # then its order is of no account
            x_BE, y_BC = (x_PE, y_PC) if one_batch else (_rows(x_PE, rows_B), y_PC[rows_B])
            p_BC = torch.sigmoid(_product(x_BE, weight_EC) + bias_C)
            # The gradient by hand: there is no autograd through sparse rows.
            error_BC = ((1 - y_BC) * p_BC - positive_weight_C * y_BC * (1 - p_BC)) / p_BC.numel()
            weight_EC.grad = _product(x_BE.T, error_BC).add_(weight_EC.sign(), alpha=fit.l1_decay / concepts)
            bias_C.grad = error_BC.sum(0)
            adam.step()
        schedule.step()
    return LinearProbes(weight_EC.T.contiguous(), bias_C)


def f1_scores(predicted_PC: Tensor, labels_PC: Tensor) -> Tensor:
    """F1 of each concept, (C,), float32; 0 where there is neither a prediction nor a label. Both bool."""
    hits_C = (predicted_PC & labels_PC).sum(0)
    return 2 * hits_C / (predicted_PC.sum(0) + labels_PC.sum(0)).clamp_min(1)


def rank_latents(
    f_PF: csr_array,
    labels_PC: Tensor,
    k: int,
    seed: int,
    *,
    rankings: Sequence[Ranking] = ("weight",),
    fit: ProbeFit = SPARSE_FIT,
) -> dict[Ranking, Tensor]:
    """The latents that speak most for each concept, (C, K), int64, best first, from the weights of one L1 probe.

    Largest, not largest in size: a latent that speaks against a concept does not stand for it.

    Args:
        rankings: by `weight`, as SAEBench does; or by `contribution`, a weight times the root mean square of its
            latent. The learning rates of 50 epochs sum to 0.08, and Adam's steps are hardly larger: with few batches an
            epoch the weights of all that speak for a concept end near that sum, and the largest may well be that of a
            latent which fires twice. Its contribution is small.
    """
    weight_CF = fit_probes(f_PF, labels_PC, fit, seed).W_CD
    speaks_CF: dict[Ranking, Tensor] = {"weight": weight_CF}
    if "contribution" in rankings:
        squares_F = np.bincount(f_PF.indices, np.square(f_PF.data, dtype=np.float64), minlength=weight_CF.shape[1])
        speaks_CF["contribution"] = weight_CF * torch.from_numpy(squares_F).sqrt().float()
    return {by: speaks_CF[by].sort(dim=1, descending=True, stable=True).indices[:, :k] for by in rankings}


def sparse_probe_f1(
    f_PK: NDArray[np.float32], labels_P: NDArray[np.bool_], test_P: NDArray[np.bool_]
) -> tuple[float, ...]:
    """F1 on the test positions of logistic regressions on the first 1, 2, … K latents, fitted on the others.

    Classes are balanced and C is 1, as in SAEBench. Most positions have none of the K latents: those of one class are
    one row, with their number as its weight, which leaves the objective as it is.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    f_RK, labels_R, counts_R = _condense(f_PK[~test_P], labels_P[~test_P])
    positives = counts_R[labels_R].sum()
    if positives == 0 or positives == counts_R.sum():
        return (0.0,) * f_PK.shape[1]
    balance_R = counts_R.sum() / 2 / np.where(labels_R, positives, counts_R.sum() - positives)
    scores: list[float] = []
    for k in range(1, f_PK.shape[1] + 1):
        with threadpool_limits(1):  # the products are small, and threads that wait take the cores of other processes
            probe = LogisticRegression(max_iter=500).fit(f_RK[:, :k], labels_R, sample_weight=counts_R * balance_R)
        predicted_P = f_PK[test_P, :k].astype(np.float64) @ probe.coef_[0] + probe.intercept_[0] > 0
        scores.append(f1_scores(torch.from_numpy(predicted_P), torch.from_numpy(labels_P[test_P])).item())
    return tuple(scores)


def sparse_rows(f_PF: Tensor | csr_array) -> csr_array:
    """Latents, dense or in any of torch's sparse layouts, as sparse rows on the CPU, float32."""
    if isinstance(f_PF, csr_array):
        return f_PF
    f_PF = f_PF.detach().cpu().float()
    if f_PF.layout == torch.strided:
        return csr_array(f_PF.numpy())
    coo_PF = f_PF.to_sparse_coo().coalesce()
    return csr_array((coo_PF.values().numpy(), coo_PF.indices().numpy()), shape=tuple(f_PF.shape))


def _condense(
    f_PK: NDArray[np.float32], labels_P: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Rows, labels and how many positions each stands for."""
    some_P = (f_PK != 0).any(1)
    rest = [np.count_nonzero(~some_P & (labels_P == label)) for label in (False, True)]
    f_RK = np.concatenate([f_PK[some_P], np.zeros((2, f_PK.shape[1]))]).astype(np.float64)
    labels_R = np.append(labels_P[some_P], [False, True])
    counts_R = np.append(np.ones(np.count_nonzero(some_P)), rest).astype(np.float64)
    return f_RK[counts_R > 0], labels_R[counts_R > 0], counts_R[counts_R > 0]


def _rows(x_PE: Any, rows_B: Tensor) -> Any:
    return x_PE[rows_B] if isinstance(x_PE, Tensor) else x_PE[rows_B.numpy()]


def _product(x_PE: Any, weight_EC: Tensor) -> Tensor:
    """Dense times dense, or sparse times dense, float32."""
    return x_PE @ weight_EC if isinstance(x_PE, Tensor) else torch.from_numpy(x_PE @ weight_EC.numpy())


@dataclass(frozen=True)
class ConceptProbes:
    """Linear probes of the concepts on the LM's activations, and their F1 on the test positions; no SAE enters."""

    linear: LinearProbes
    f1_C: Tensor


@torch.inference_mode()
def fit_concept_probes(
    concepts: Concepts,
    x_PD: Tensor,
    *,
    seed: int = 0,
    fit: ProbeFit = ProbeFit(),
) -> ConceptProbes:
    """Once for an LM and hook point, for every SAE on it.

    Args:
        x_PD: activations at the concepts' positions as the LM gives them, float32.
    """
    x_PD, test_P = x_PD.cpu().float(), concepts.test_P
    probes = fit_probes(x_PD[~test_P], concepts.labels_PC[~test_P], fit, seed)
    return ConceptProbes(probes, f1_scores(probes.logits(x_PD[test_P]) > 0, concepts.labels_PC[test_P]))
