"""Do probes on latents hold where the distribution shifts? (2604.06495 asks it; after Kantamneni et al., 2502.16681)

A probe is trained on texts of one distribution and tested on another's, beside the oracle, the same kind of probe
trained on the other distribution itself; on latents, and on the LM's activations.

Axes: N texts, S shifted test texts, C classes, E values of a text: activations or latents, R resamples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, Wording, l0_wording
from masked_sae.evals.texts.labelled import TEXT_SETTINGS, ShiftTask
from masked_sae.randomness import numpy_generator

_ALPHAS = np.logspace(-4, 4, 17)  # penalties, for values of a mean squared norm of 1


@dataclass(frozen=True)
class ShiftScores:
    """What the probes say of held-out texts; higher is more likely of the class.

    Attributes:
        labels_S: classes of the shifted test texts, int64.
        probe_SC, oracle_SC: scores of these texts by the probe trained in distribution, and by the oracle.
        in_distribution: AUC of the probe on held-out texts of its own distribution.
    """

    labels_S: NDArray[np.int64]
    probe_SC: NDArray[np.float64]
    oracle_SC: NDArray[np.float64]
    in_distribution: float


@dataclass(frozen=True)
class Gap:
    """AUC on the shifted texts, one class against the rest, the mean over the classes, with 95 % intervals.

    Attributes:
        auc, oracle: of the probe trained in distribution, and of the one trained on the shifted texts.
        gap: `oracle - auc`; its interval is of paired differences.
        in_distribution: of the first on its own distribution's test texts.
    """

    auc: float
    auc_low: float
    auc_high: float
    oracle: float
    oracle_low: float
    oracle_high: float
    gap: float
    gap_low: float
    gap_high: float
    in_distribution: float


@dataclass(frozen=True)
class Ood:
    """The gap of probes on latents beside that of probes on the LM's activations."""

    latents: Gap
    lm: Gap

    def metrics(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, prefix, gap in (("latents", "", self.latents), ("lm", "lm_", self.lm)):
            values |= {f"auc_{name}": gap.auc, f"auc_{name}_low": gap.auc_low, f"auc_{name}_high": gap.auc_high}
            values |= {f"auc_{name}_oracle": gap.oracle, f"auc_{name}_in_distribution": gap.in_distribution}
            values |= {f"auc_{name}_oracle_low": gap.oracle_low, f"auc_{name}_oracle_high": gap.oracle_high}
            values |= {f"{prefix}gap": gap.gap, f"{prefix}gap_low": gap.gap_low, f"{prefix}gap_high": gap.gap_high}
        return values


def shift_scores(values_NE: Tensor, labels_N: Tensor, train_N: Tensor, shifted_N: Tensor) -> ShiftScores:
    """Fits probe and oracle on the train texts of either distribution and applies them to the test texts.

    The probes are ridge regressions of +1 and -1, one class against the rest, texts weighted so that classes count
    alike. The penalty is the one of the smallest leave-one-out error, which ridge has in closed form, on the texts
    that the probe is trained on: a penalty fixed for all would favour activations or latents by their number. Values
    are centred and share one scale, so the figures do not depend on units; single values are not standardised, since a
    latent that is rare on the train texts and common on the shifted ones would drown all others.

    Args:
        values_NE: means over each text.
        labels_N: int64, 0 to C - 1.
        train_N: bool; the other texts test.
        shifted_N: bool, the texts of the shifted distribution.
    """
    values = values_NE.numpy(force=True)
    labels_of_N, train, shifted = labels_N.numpy(), train_N.numpy(), shifted_N.numpy()
    probe = _Probe.fit(values[train & ~shifted], labels_of_N[train & ~shifted])
    oracle = _Probe.fit(values[train & shifted], labels_of_N[train & shifted])
    test, inside = ~train & shifted, ~train & ~shifted
    in_distribution = _Auc(probe.scores(values[inside]), labels_of_N[inside]).of(_once(int(inside.sum())))
    return ShiftScores(
        labels_S=labels_of_N[test],
        probe_SC=probe.scores(values[test]),
        oracle_SC=oracle.scores(values[test]),
        in_distribution=float(in_distribution[0]),
    )


def ood(latents: ShiftScores, lm: ShiftScores, *, resamples: int = 1000, seed: int = 0) -> Ood:
    """The gaps to the oracles with bootstrap intervals over the shifted test texts; 1,000 resamples take a second."""
    return Ood(gap(latents, resamples=resamples, seed=seed), gap(lm, resamples=resamples, seed=seed))


def gap(scores: ShiftScores, *, resamples: int = 1000, seed: int = 0) -> Gap:
    """Percentile intervals of 95 %, texts resampled; a resample without a class is judged on the classes it has."""
    from scipy.stats import bootstrap

    probe, oracle = _Auc(scores.probe_SC, scores.labels_S), _Auc(scores.oracle_SC, scores.labels_S)
    size = len(scores.labels_S)

    def statistic(texts: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        """AUC of probe, of oracle and their difference for resampled texts, which lie along the last axis."""
        texts_RS = texts.reshape(-1, texts.shape[-1])
        counts_RS = np.zeros((len(texts_RS), size))
        np.add.at(counts_RS, (np.arange(len(texts_RS))[:, None], texts_RS), 1)
        auc_R, oracle_R = probe.of(counts_RS), oracle.of(counts_RS)
        return np.stack([auc_R, oracle_R, oracle_R - auc_R]).reshape(3, *texts.shape[:-1])

    generator = numpy_generator(seed, "bootstrap of texts")
    interval = bootstrap(
        (np.arange(size),), statistic, n_resamples=resamples, vectorized=True, method="percentile", rng=generator
    ).confidence_interval
    (low, oracle_low, gap_low), (high, oracle_high, gap_high) = interval.low.tolist(), interval.high.tolist()
    auc, top = float(probe.of(_once(size))[0]), float(oracle.of(_once(size))[0])
    return Gap(
        auc, low, high, top, oracle_low, oracle_high, top - auc, gap_low, gap_high, scores.in_distribution
    )  # fmt: skip


class _Auc:
    """Areas under the ROC curve where text s counts as often as a resample has it; ties count half."""

    def __init__(self, scores_SC: NDArray[np.float64], labels_S: NDArray[np.int64]) -> None:
        self._classes: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]] = []
        for label in range(scores_SC.shape[1]):
            order_S = np.argsort(scores_SC[:, label], kind="stable")
            _, starts = np.unique(scores_SC[order_S, label], return_index=True)  # groups of equal scores
            self._classes.append((order_S, starts, labels_S[order_S] == label))

    def of(self, counts_RS: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over the classes, (R,)."""
        areas: list[NDArray[np.float64]] = []
        for order_S, starts, positive_S in self._classes:
            sorted_RS = counts_RS[:, order_S]
            positive = np.add.reduceat(sorted_RS * positive_S, starts, axis=1)
            negative = np.add.reduceat(sorted_RS * ~positive_S, starts, axis=1)
            below = negative.cumsum(1) - negative / 2
            with np.errstate(invalid="ignore"):
                areas.append((positive * below).sum(1) / (positive.sum(1) * negative.sum(1)))
        return np.nanmean(areas, axis=0)


def _once(size: int) -> NDArray[np.float64]:
    return np.ones((1, size))


@dataclass(frozen=True)
class _Probe:
    varies_E: NDArray[np.bool_]  # on the train texts: the weight of a constant is 0
    spread: float
    ridge: Any

    @classmethod
    def fit(cls, values_NE: NDArray[np.float32], labels_N: NDArray[np.int64]) -> "_Probe":
        from sklearn.linear_model import RidgeClassifierCV
        from threadpoolctl import threadpool_limits

        varies_E = (values_NE != values_NE[0]).any(0)
        varies_E[0] |= not varies_E.any()  # an SAE that never fires
        spread = float(np.sqrt(values_NE[:, varies_E].var(0, dtype=np.float64).sum())) or 1.0
        with threadpool_limits(1):  # the same bits with any number of threads
            ridge = RidgeClassifierCV(_ALPHAS, class_weight="balanced")
            return cls(varies_E, spread, ridge.fit(values_NE[:, varies_E].astype(np.float64) / spread, labels_N))

    def scores(self, values_NE: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C), also for two classes."""
        scores: NDArray[np.float64] = self.ridge.decision_function(values_NE[:, self.varies_E] / self.spread)
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def measure(evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    """Means over the tasks whose distribution shifts."""

    def of_task(task: ShiftTask, f_NF: Tensor) -> dict[str, float]:
        def on(values_NE: Tensor) -> ShiftScores:
            return shift_scores(values_NE, task.labels_N, task.train_N, task.shifted_N)

        lm = context.once(("ood", task.name), lambda: on(context.mean_activations(task)))
        return ood(on(f_NF * evaluated.norm_F), lm, seed=context.settings.seed).metrics()

    return context.mean_over_tasks(ShiftTask, evaluated, of_task)


_ENDS = "of its bootstrap interval within the run"
FAMILY = Family(
    "ood",
    TEXT_SETTINGS,
    measure,
    (
        Wording(
            "gap",
            "OOD gap",
            "AUC",
            "AUC on the shifted set of the oracle probe, less that of the probe trained in distribution",
            "lower",
            headline=True,
            in_paper="OOD gap",
        ),
        Wording(r"gap_(low|high)", "OOD gap, {0} end", "AUC", _ENDS),
        Wording("lm_gap", "OOD gap of the LM", "AUC", "the same for probes on the LM's activations"),
        Wording(r"lm_gap_(low|high)", "OOD gap of the LM, {0} end", "AUC", _ENDS),
        Wording("auc_latents_oracle", "OOD AUC, oracle", "AUC", "of the probe trained on the shifted set", "higher"),
        Wording("auc_latents", "OOD AUC", "AUC", "on the shifted set, trained in distribution", "higher"),
        Wording("auc_latents_in_distribution", "AUC in distribution", "AUC", "where it was trained", "higher"),
        Wording("auc_lm_oracle", "OOD AUC of the LM, oracle", "AUC", "the same for probes on the LM's activations"),
        Wording("auc_lm", "OOD AUC of the LM", "AUC", "the same for probes on the LM's activations"),
        Wording("auc_lm_in_distribution", "AUC of the LM in distribution", "AUC", "likewise, where it was trained"),
        Wording(r"auc_(latents|lm)_(low|high)", "OOD AUC ({0}), {1} end", "AUC", _ENDS),
        Wording(r"auc_(latents|lm)_oracle_(low|high)", "OOD AUC, oracle ({0}), {1} end", "AUC", _ENDS),
        l0_wording("ood"),
    ),
    place=5,
)
