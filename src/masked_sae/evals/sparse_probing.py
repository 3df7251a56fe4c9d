"""How well one, two or five latents tell a class of texts from the others (Gurnee et al. 2023, as in SAEBench).

Axes: N texts, C binary tasks, M texts of a task's balanced set, E values of a text: activations or latents.

Values are mean-pooled over a text and neither centred nor scaled, as in SAEBench: the penalty of the regression, and
which latents have the largest difference of means, depend on their units. Both are those of an SAE that reads the LM's
own activations and whose decoder rows have unit norm; for other SAEs multiply the latents by the norms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, Wording, l0_wording
from masked_sae.evals.text_probes import BinarySets, one_against_rest
from masked_sae.evals.texts.labelled import TEXT_SETTINGS, ProbingTask

KS = (1, 2, 5)
_SPARSE = 0.2  # share of values that are not 0 below which a sparse matrix is faster


@dataclass(frozen=True)
class ProbeAccuracies:
    """Of logistic regressions on held-out texts, the mean over the classes; chance is 0.5.

    Attributes:
        top: by k, on the k values of the largest difference of class means.
        all_values: on all of them; None where left out.
    """

    top: dict[int, float]
    all_values: float | None


@dataclass(frozen=True)
class SparseProbing:
    """The accuracies on latents beside those on the LM's activations."""

    latents: ProbeAccuracies
    lm: ProbeAccuracies

    def metrics(self) -> dict[str, float]:
        values: dict[str, float | None] = {f"top_{k}": value for k, value in self.latents.top.items()}
        values["all_latents"] = self.latents.all_values
        values["lm"] = self.lm.all_values
        values |= {f"lm_top_{k}": value for k, value in self.lm.top.items()}
        return {key: value for key, value in values.items() if value is not None}


def probe_accuracies(
    values_NE: Tensor,
    labels_N: Tensor,
    train_N: Tensor,
    *,
    ks: Sequence[int] = KS,
    all_values: bool = True,
    seed: int = 0,
) -> ProbeAccuracies:
    """Sparse probes of each class against the rest, on either latents or activations.

    Args:
        values_NE: means over each text, (N, E).
        labels_N: int64, 0 to C - 1.
        train_N: bool; the other texts test.
        ks: those larger than E are left out.
        all_values: also fit a probe on all E values. SAEBench trains that one with AdamW and stops where the *test*
            accuracy is best; this is the converged logistic regression, as for the others.
    """
    train, test = (one_against_rest(labels_N, chosen_N, seed) for chosen_N in (train_N, ~train_N))
    return accuracies_on_sets(values_NE, train, test, ks=ks, all_values=all_values)


@torch.inference_mode()
def accuracies_on_sets(
    values_NE: Tensor, train: BinarySets, test: BinarySets, *, ks: Sequence[int] = KS, all_values: bool = True
) -> ProbeAccuracies:
    """As `probe_accuracies`, on given balanced sets."""
    ks = [k for k in ks if k <= values_NE.shape[1]]
    order_CE = train.mean_differences(values_NE).abs().argsort(dim=1, descending=True, stable=True)
    top: dict[int, list[float]] = {k: [] for k in ks}
    whole: list[float] = []
    values = values_NE.float().cpu()
    for task, order_E in enumerate(order_CE.cpu()):
        for k in ks:
            top[k].append(_accuracy(values[:, order_E[:k]], train, test, task))
        if all_values:
            fires_E = values[train.rows_CM[task]].any(0)  # a value that is always 0 has weight 0
            fires_E[0] |= ~fires_E.any()  # an SAE that never fires
            whole.append(_accuracy(values[:, fires_E], train, test, task))
    means = {k: float(np.mean(accuracies)) for k, accuracies in top.items()}
    return ProbeAccuracies(means, float(np.mean(whole)) if all_values else None)


def _accuracy(values_NE: Tensor, train: BinarySets, test: BinarySets, task: int) -> float:
    from scipy.sparse import csr_array
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    seen_ME, unseen_ME = (values_NE[sets.rows_CM[task]].numpy() for sets in (train, test))
    if np.count_nonzero(seen_ME) < _SPARSE * seen_ME.size:
        seen_ME = csr_array(seen_ME)
    probe = LogisticRegression(max_iter=1000)
    with threadpool_limits(1):  # the products are small: a second thread waits more than it works
        probe.fit(seen_ME, train.positive_CM[task].numpy())
        return float(probe.score(unseen_ME, test.positive_CM[task].numpy()))


def measure(evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    """Means over the probing tasks."""

    def of_task(task: ProbingTask, f_NF: Tensor) -> dict[str, float]:
        def on(values_NE: Tensor) -> ProbeAccuracies:
            return probe_accuracies(values_NE, task.labels_N, task.train_N, seed=context.settings.seed)

        lm = context.once(("sparse_probing", task.name), lambda: on(context.mean_activations(task)))
        return SparseProbing(on(f_NF * evaluated.norm_F), lm).metrics()

    return context.mean_over_tasks(ProbingTask, evaluated, of_task)


FAMILY = Family(
    "sparse_probing",
    TEXT_SETTINGS,
    measure,
    (
        Wording(
            "top_1",
            "Sparse probing, 1 latent",
            "accuracy",
            "test accuracy of a probe on the best latent",
            "higher",
            headline=True,
            in_paper="sparse probing",
        ),
        Wording(
            r"top_(\d+)",
            "Sparse probing, {0} latents",
            "accuracy",
            "test accuracy of a probe on the best latents",
            "higher",
        ),
        Wording("all_latents", "Probing, all latents", "accuracy", "test accuracy of a probe on all", "higher"),
        Wording("lm", "Probing the LM", "accuracy", "of a probe on the LM's activations"),
        Wording(
            r"lm_top_(\d+)",
            "Probing the LM, {0} of its dimensions",
            "accuracy",
            "of a probe on the best dimensions of the LM's activations",
        ),
        l0_wording("sparse probing"),
    ),
    place=2,
)
