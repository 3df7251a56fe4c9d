"""Spurious correlation removal (Karvonen et al. 2024, arXiv 2411.18895, after SHIFT, as in SAEBench).

A probe learns a label from texts in which an attribute always goes with it, so it partly reads the attribute. Which
share of what that costs on balanced texts comes back when the attribute's latents are zero-ablated?

Axes: N texts, T of them balanced test texts, C the three probes, D `d_in`, F `d_sae`. A quadrant is a label with an
attribute.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from masked_sae.errors import InputError
from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, Wording, l0_wording
from masked_sae.evals.text_probes import BinarySets, LinearProbes, ablated_logits, strongest, train_probes
from masked_sae.evals.texts.labelled import TEXT_SETTINGS, SpuriousTask
from masked_sae.evals.tpp import NS
from masked_sae.randomness import numpy_generator

LABEL, ATTRIBUTE, BIASED = range(3)  # the probes, along axis C
_NOTHING_TO_REMOVE = 0.001  # below this loss of accuracy the share is 0, as in SAEBench


@dataclass(frozen=True)
class ScrProbes:
    """What does not depend on the SAE.

    Attributes:
        probes: of the label and of the attribute, on balanced texts, and of the label where the attribute goes with it.
        train: the texts each was trained on.
        balanced: test texts with their labels, and with their attributes: two tasks on the same texts.
        logits_NC: of all texts, without ablation.
    """

    probes: LinearProbes
    train: BinarySets
    balanced: BinarySets
    logits_NC: Tensor

    @classmethod
    def on(cls, x_ND: Tensor, probes: LinearProbes, train: BinarySets, balanced: BinarySets) -> "ScrProbes":
        return cls(probes, train, balanced, probes.logits(x_ND))

    @property
    def biased(self) -> Tensor:
        """Accuracies of the biased probe on labels and on attributes, (2,)."""
        return self.balanced.accuracies(self.logits_NC[:, BIASED:].expand(-1, 2))

    @property
    def clean(self) -> Tensor:
        """Accuracies of the label's probe on labels and of the attribute's on attributes, (2,)."""
        return self.balanced.accuracies(self.logits_NC[:, :BIASED])


@dataclass(frozen=True)
class Scr:
    """The share of the lost accuracy that ablation brings back: 1 is all of it, below 0 it is made worse.

    Attributes:
        shares: by the number of ablated latents; of the direction below, or the mean of both if they are equally lost.
        label_shares: ablated are the attribute's latents, and the biased probe has to tell labels.
        attribute_shares: the other way round.
        clean, biased: accuracy of the unbiased and of the biased probe, in the direction in which the biased probe
            does worse. That one counts.
    """

    shares: dict[int, float]
    label_shares: dict[int, float]
    attribute_shares: dict[int, float]
    clean: float
    biased: float

    def metrics(self) -> dict[str, float]:
        shares = {f"top_{n}": value for n, value in self.shares.items()}
        return shares | {"clean_accuracy": self.clean, "biased_accuracy": self.biased}


@torch.inference_mode()
def fit_scr_probes(
    x_ND: Tensor, labels_N: Tensor, attributes_N: Tensor, train_N: Tensor, *, seed: int = 0
) -> ScrProbes:
    """The three probes; fitted once for all SAEs on these activations.

    With q texts a quadrant, the balanced sets have q of each of the four, and the biased one 2 q of the two in which
    label and attribute agree.

    Args:
        x_ND: the LM's own activations, means over each text.
        labels_N, attributes_N: bool.
        train_N: bool; the other texts test.

    Raises:
        InputError: a quadrant has no texts.
    """
    balanced, biased = _sets(labels_N, attributes_N, train_N, seed, doubled=True)
    train = BinarySets(
        torch.cat([balanced.rows_CM, biased.rows_CM]), torch.cat([balanced.positive_CM, biased.positive_CM])
    )
    test, _ = _sets(labels_N, attributes_N, ~train_N, seed, doubled=False)
    return ScrProbes.on(x_ND, train_probes(x_ND, train, seed=seed), train, test)


def _sets(
    labels_N: Tensor, attributes_N: Tensor, chosen_N: Tensor, seed: int, *, doubled: bool
) -> tuple[BinarySets, BinarySets]:
    """The balanced sets of label and attribute, and the biased set, which is whole only where asked for (`doubled`)."""
    quadrants: dict[tuple[bool, bool], Tensor] = {}
    for label in (True, False):
        for attribute in (True, False):
            rows = (chosen_N & (labels_N == label) & (attributes_N == attribute)).nonzero()[:, 0].numpy()
            generator = numpy_generator(seed, "texts of a quadrant", 2 * label + attribute)
            quadrants[label, attribute] = torch.from_numpy(generator.permutation(rows))
    sizes = {key: len(rows) // (2 if doubled and key[0] == key[1] else 1) for key, rows in quadrants.items()}
    size = min(sizes.values())
    if size == 0:
        label, attribute = next(key for key in sizes if sizes[key] == 0)
        valid = f"texts with every label and attribute; none has label {int(label)} and attribute {int(attribute)}"
        raise InputError("eval.tasks", "a spurious task", valid)
    quarter = {key: rows[:size] for key, rows in quadrants.items()}
    by_label = [torch.cat([quarter[label, True], quarter[label, False]]) for label in (True, False)]
    by_attribute = [torch.cat([quarter[True, value], quarter[False, value]]) for value in (True, False)]
    balanced = BinarySets.of([by_label[0], by_attribute[0]], [by_label[1], by_attribute[1]])
    return balanced, BinarySets.of([quadrants[True, True][: 2 * size]], [quadrants[False, False][: 2 * size]])


@torch.inference_mode()
def scr(fitted: ScrProbes, f_NF: Tensor, W_dec_FD: Tensor, *, ns: Sequence[int] = NS) -> Scr:
    """Ablates the latents with the largest effect on the probe of what must not count, and asks the biased probe.

    A latent's effect: `|(mean f where true - mean f where false) (W_dec w)|` with the attribute's (label's) probe `w`,
    on balanced train texts. The share: `(ablated - biased) / (clean - biased)`, accuracies on balanced test texts.

    Args:
        f_NF: latents of the same texts, means over the same positions, for activations in the probes' units.
        ns: those larger than F are left out.
    """
    ns = sorted(n for n in ns if n <= f_NF.shape[1])
    effects_CF = (fitted.train.mean_differences(f_NF) * (fitted.probes.W_CD @ W_dec_FD.T)).abs()
    biased_probe = LinearProbes(fitted.probes.W_CD[BIASED:], fitted.probes.b_C[BIASED:])
    original = fitted.biased
    clean = fitted.clean
    test_T, within = fitted.balanced.rows_CM.unique(return_inverse=True)
    balanced = BinarySets(within, fitted.balanced.positive_CM)
    f_TF, biased_T1 = f_NF[test_T], fitted.logits_NC[test_T, BIASED:]
    shares: list[dict[int, float]] = []
    for direction, ablated in ((LABEL, ATTRIBUTE), (ATTRIBUTE, LABEL)):
        latents_K = strongest(effects_CF[ablated], max(ns, default=0))
        logits = ablated_logits(biased_T1, f_TF, W_dec_FD, biased_probe, latents_K, ns)
        lost = (clean[direction] - original[direction]).item()
        accuracies = [balanced.accuracies(changed_T1.expand(-1, 2))[direction] for changed_T1 in logits]
        gained = [(accuracy - original[direction]).item() for accuracy in accuracies]
        shares.append({n: g / lost if lost >= _NOTHING_TO_REMOVE else 0.0 for n, g in zip(ns, gained, strict=True)})
    worse = int(original.argmin())
    if original[LABEL] == original[ATTRIBUTE]:  # SAEBench has no figure then
        both = {n: (shares[LABEL][n] + shares[ATTRIBUTE][n]) / 2 for n in ns}
    else:
        both = shares[worse]
    return Scr(both, shares[LABEL], shares[ATTRIBUTE], clean[worse].item(), original[worse].item())


def measure(evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    """Means over the tasks with a spurious correlation."""

    def of_task(task: SpuriousTask, f_NF: Tensor) -> dict[str, float]:
        def fit() -> ScrProbes:
            return fit_scr_probes(
                context.mean_activations(task),
                task.labels_N.bool(),
                task.attributes_N,
                task.train_N,
                seed=context.settings.seed,
            )

        return scr(context.once(("scr", task.name), fit), f_NF, evaluated.sae.W_dec_FD.cpu()).metrics()

    return context.mean_over_tasks(SpuriousTask, evaluated, of_task)


FAMILY = Family(
    "scr",
    TEXT_SETTINGS,
    measure,
    (
        Wording(
            "top_20",
            "SCR, 20 latents",
            "share",
            "share of a spurious correlation removed by ablating latents",
            "higher",
            headline=True,
            in_paper="SCR",
        ),
        Wording(r"top_(\d+)", "SCR, {0} latents", "share", "spurious correlation removed", "higher"),
        Wording(
            r"(clean|biased)_accuracy",
            "SCR, accuracy of the {0} probe",
            "accuracy",
            "without ablation, on balanced texts; the biased probe was trained on a spurious correlation",
        ),
        l0_wording("scr"),
    ),
    place=4,
)
