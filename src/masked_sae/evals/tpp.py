"""Targeted probe perturbation (Karvonen et al. 2024, arXiv 2411.18895, as in SAEBench).

Does zero-ablating the latents of one class hurt the probe of that class, and no other class' probe?

Axes: N texts, T of them test texts, C classes, D `d_in`, F `d_sae`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, Wording, l0_wording
from masked_sae.evals.text_probes import (
    BinarySets,
    LinearProbes,
    ablated_logits,
    one_against_rest,
    strongest,
    train_probes,
)
from masked_sae.evals.texts.labelled import TEXT_SETTINGS, ProbingTask

NS = (2, 5, 10, 20, 50, 100, 500)


@dataclass(frozen=True)
class TppProbes:
    """What does not depend on the SAE: a probe for each class, the texts it is judged on, its logits.

    Attributes:
        logits_NC: of all texts, without ablation.
    """

    probes: LinearProbes
    train: BinarySets
    test: BinarySets
    logits_NC: Tensor

    @property
    def accuracies_C(self) -> Tensor:  # noqa: N802
        """Without ablation, on the test texts, (C,)."""
        return self.test.accuracies(self.logits_NC)

    @classmethod
    def on(cls, x_ND: Tensor, probes: LinearProbes, train: BinarySets, test: BinarySets) -> "TppProbes":
        return cls(probes, train, test, probes.logits(x_ND))


@dataclass(frozen=True)
class Tpp:
    """Drops of test accuracy after ablation, by the number of ablated latents; means over the classes.

    Attributes:
        intended: of the probe of the class whose latents were ablated.
        unintended: of the other classes' probes, their mean.
        clean: the probes' mean accuracy without ablation.
    """

    intended: dict[int, float]
    unintended: dict[int, float]
    clean: float

    def metrics(self) -> dict[str, float]:
        """`top_n` is the intended less the unintended drop."""
        values = {f"top_{n}": self.intended[n] - self.unintended[n] for n in self.intended}
        values |= {f"intended_{n}": value for n, value in self.intended.items()}
        values |= {f"unintended_{n}": value for n, value in self.unintended.items()}
        return values | {"clean_accuracy": self.clean}


@torch.inference_mode()
def fit_tpp_probes(x_ND: Tensor, labels_N: Tensor, train_N: Tensor, *, seed: int = 0) -> TppProbes:
    """The probes of each class against the rest; fitted once for all SAEs on these activations.

    Args:
        x_ND: the LM's own activations, means over each text.
        labels_N: int64, 0 to C - 1.
        train_N: bool; the other texts test.
    """
    train, test = (one_against_rest(labels_N, chosen_N, seed) for chosen_N in (train_N, ~train_N))
    return TppProbes.on(x_ND, train_probes(x_ND, train, seed=seed), train, test)


@torch.inference_mode()
def tpp(fitted: TppProbes, f_NF: Tensor, W_dec_FD: Tensor, *, ns: Sequence[int] = NS) -> Tpp:
    """Ablates each class' latents of largest effect and asks all probes.

    A latent's effect on a class: `max(0, mean f in the class - mean f outside) * (W_dec w)` with the class' probe `w`,
    on the train texts. Where fewer than `n` latents have a positive effect, those are all that is ablated; SAEBench
    fills up with latents of no effect, in an order that depends on how the latents are numbered.

    Args:
        f_NF: latents of the same texts, means over the same positions, for activations in the probes' units.
        ns: those larger than F are left out.
    """
    ns = sorted(n for n in ns if n <= f_NF.shape[1])
    effects_CF = fitted.train.mean_differences(f_NF).clamp_min(0) * (fitted.probes.W_CD @ W_dec_FD.T)
    test_T, within = fitted.test.rows_CM.unique(return_inverse=True)
    test = BinarySets(within, fitted.test.positive_CM)
    f_TF, logits_TC = f_NF[test_T], fitted.logits_NC[test_T]
    clean_C = test.accuracies(logits_TC)
    classes = len(clean_C)
    drops: dict[int, list[Tensor]] = {n: [] for n in ns}
    for effects_F in effects_CF:
        latents_K = strongest(effects_F, max(ns, default=0))
        changed = ablated_logits(logits_TC, f_TF, W_dec_FD, fitted.probes, latents_K, ns)
        for n, changed_TC in zip(ns, changed, strict=True):
            drops[n].append(clean_C - test.accuracies(changed_TC))
    intended: dict[int, float] = {}
    unintended: dict[int, float] = {}
    for n, rows in drops.items():
        drops_CC = torch.stack(rows)  # ablated class, probed class
        intended[n] = drops_CC.trace().item() / classes
        unintended[n] = (drops_CC.sum() - drops_CC.trace()).item() / (classes * (classes - 1))
    return Tpp(intended, unintended, clean_C.mean().item())


def measure(evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    """Means over the probing tasks."""

    def of_task(task: ProbingTask, f_NF: Tensor) -> dict[str, float]:
        def fit() -> TppProbes:
            return fit_tpp_probes(
                context.mean_activations(task), task.labels_N, task.train_N, seed=context.settings.seed
            )

        return tpp(context.once(("tpp", task.name), fit), f_NF, evaluated.sae.W_dec_FD.cpu()).metrics()

    return context.mean_over_tasks(ProbingTask, evaluated, of_task)


FAMILY = Family(
    "tpp",
    TEXT_SETTINGS,
    measure,
    (
        Wording(
            "top_20",
            "TPP, 20 latents",
            "accuracy difference",
            "targeted probe perturbation: intended minus unintended drop of probe accuracy",
            "higher",
            headline=True,
            in_paper="TPP",
        ),
        Wording(r"top_(\d+)", "TPP, {0} latents", "accuracy difference", "targeted probe perturbation", "higher"),
        Wording(
            r"(intended|unintended)_(\d+)",
            "TPP {0}, {1} latents",
            "accuracy difference",
            "drop of probe accuracy by ablating latents: intended, of their own class; unintended, of the others",
        ),
        Wording("clean_accuracy", "TPP, accuracy before", "accuracy", "of the probes without ablation"),
        l0_wording("tpp"),
    ),
    place=3,
)
