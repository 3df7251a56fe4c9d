"""All families of metrics on one LM and hook point: what SAEs share is read and fitted once, when first needed.

Axes: N texts, P read positions, D `d_in`, F `d_sae`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from masked_sae.activations.lm import LM
from masked_sae.activations.stream import Layout
from masked_sae.activations.synthetic_truth import Truth, has_truth, load_truth
from masked_sae.config import EvalConfig
from masked_sae.evals.absorption import AbsorptionResult, evaluate_absorption, fit_ground_truth
from masked_sae.evals.concept_probes import Ranking, sparse_rows
from masked_sae.evals.core import evaluate_core
from masked_sae.evals.ground_truth import evaluate_ground_truth
from masked_sae.evals.ood import ShiftScores, ood, shift_scores
from masked_sae.evals.scr import ScrProbes, fit_scr_probes, scr
from masked_sae.evals.sparse_probing import ProbeAccuracies, SparseProbing, probe_accuracies
from masked_sae.evals.texts.activations import ActivationCache, Reading
from masked_sae.evals.texts.concepts import Concepts, first_letter, token_class
from masked_sae.evals.texts.config import hub_tasks
from masked_sae.evals.texts.labelled import LabelledTexts, ProbingTask, ShiftTask, Sizes, SpuriousTask
from masked_sae.evals.texts.stdlib import stdlib_tasks
from masked_sae.evals.tpp import TppProbes, fit_tpp_probes, tpp
from masked_sae.saes import InferenceSAE

# SAEBench ranks latents by their weight in the L1 probe, which says little of latents that are strong and rare; their
# contribution to the probe's logit is measured beside it.
_SUFFIXES: dict[Ranking, str] = {"weight": "", "contribution": "_by_contribution"}

_POSITIONS_AT_ONCE = 4096  # whose latents are dense at a time

Fitted = TypeVar("Fitted")
Task = TypeVar("Task", bound=LabelledTexts)


@dataclass(frozen=True)
class Measured:
    """Of one SAE, by one family.

    Attributes:
        metrics: numbers, without the family's name in front.
        notes: by metric or set of metrics, why it could not be measured.
        details: what the means are made of, as JSON has it.
    """

    metrics: dict[str, float]
    notes: dict[str, str] = field(default_factory=dict[str, str])
    details: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Subject:
    """An SAE, and its mean latents on the texts read so far: every position is encoded once."""

    sae: InferenceSAE
    _pooled: dict[int, tuple[Tensor, float]] = field(default_factory=dict[int, tuple[Tensor, float]])

    def mean_latents(self, reading: Reading, activations: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """Means over each text's read positions (N, F), and L0 over them."""
        if id(reading) not in self._pooled:
            self._pooled[id(reading)] = reading.pooled_latents(self.sae.encode, activations(), self.sae.d_sae)
        return self._pooled[id(reading)]

    @property
    def norm_F(self) -> Tensor:  # noqa: N802
        """Of the decoder's rows: what a latent has to be multiplied by, to be in the activations' units."""
        return self.sae.W_dec_FD.norm(dim=1).cpu()


class Suite:
    """Measures SAEs on one LM and hook point.

    Args:
        held_out: clean sequences.
        cache: of the LM's activations.
        lm_name: a folder that may hold the truth of a synthetic LM.
    """

    def __init__(self, lm: LM, held_out: Layout, cache: ActivationCache, settings: EvalConfig, lm_name: str) -> None:
        self._lm, self._held_out, self._cache, self._settings = lm, held_out, cache, settings
        self._truth: Truth | None = load_truth(Path(lm_name)) if has_truth(lm_name) else None
        self._fits: dict[tuple[str, str], Any] = {}
        self._core_of_another: dict[str, float] | None = None
        self._families: dict[str, Callable[[Subject], Measured]] = {
            "core": self._core,
            "absorption": self._absorption,
            "sparse_probing": self._sparse_probing,
            "tpp": self._tpp,
            "scr": self._scr,
            "ood": self._ood,
            "ground_truth": self._ground_truth,
        }

    @property
    def d_in(self) -> int:
        return self._lm.d_in

    @torch.inference_mode()
    def measure(self, family: str, subject: Subject) -> Measured:
        return self._families[family](subject)

    def _core(self, subject: Subject) -> Measured:
        settings = self._settings
        core = evaluate_core(
            subject.sae,
            self._lm,
            self._held_out,
            tokens=settings.tokens,
            batch_size=settings.batch_size,
            dense_frequency=settings.dense_frequency,
            known=self._core_of_another,
        )
        self._core_of_another = core.metrics
        return Measured(core.metrics, details={"histograms": core.histograms()})

    def _ground_truth(self, subject: Subject) -> Measured:
        if self._truth is None:
            return Measured({})
        sae, settings = subject.sae, self._settings
        found = evaluate_ground_truth(
            sae.encode,
            sae.W_dec_FD,
            self._lm,
            self._held_out,
            self._truth,
            tokens=settings.tokens,
            seed=settings.seed,
            batch_size=settings.batch_size,
        )
        return Measured(found.metrics())

    def _absorption(self, subject: Subject) -> Measured:
        metrics: dict[str, float] = {}
        notes: dict[str, str] = {}
        details: dict[str, Any] = {}
        for name in self._settings.concepts:
            for ranking, found in self._absorption_on(name, subject.sae).items():
                suffix = _SUFFIXES[ranking]
                shared = ("concepts", "l0")  # whatever the ranking
                for key, value in found.metrics().items():
                    metrics[f"{name}/{key}{'' if key in shared else suffix}"] = value
                details[f"{name}{suffix}"] = [asdict(concept) for concept in found.concepts]
                if found.not_measurable is not None:
                    notes[name] = f"not measurable on this LM: {found.not_measurable}"
        return Measured(metrics, notes, details)

    def _absorption_on(self, name: str, sae: InferenceSAE) -> dict[Ranking, AbsorptionResult]:
        seed = self._settings.seed
        concepts = self._once("concepts", name, lambda: self._make_concepts(name))
        x_PD = self._cache.read(self._lm, concepts.reading, f"absorption/{name}")
        truth = self._once("absorption", name, lambda: fit_ground_truth(concepts, x_PD, seed=seed))
        chunks = x_PD.split(_POSITIONS_AT_ONCE)
        f_PF = csr_array(vstack([sparse_rows(sae.encode(some.to(self._lm.device))) for some in chunks]))
        return evaluate_absorption(
            concepts, x_PD, f_PF, sae.W_dec_FD, truth=truth, rankings=tuple(_SUFFIXES), seed=seed
        )

    def _make_concepts(self, name: str) -> Concepts:
        settings = self._settings
        if name == "first_letter":
            return first_letter(self._lm, words=settings.concept_words, seed=settings.seed)
        return token_class(self._lm, self._held_out, tokens=settings.concept_tokens, seed=settings.seed)

    @cached_property
    def _tasks(self) -> Sequence[LabelledTexts]:
        settings = self._settings
        if settings.tasks:
            return hub_tasks(settings.tasks, self._lm.tokenizer, self._lm.special, seed=settings.seed)
        limit = settings.texts_per_class
        return stdlib_tasks(
            self._lm.tokenizer,
            self._lm.special,
            text_tokens=settings.text_tokens,
            sizes=None if limit is None else Sizes(limit, limit),
            seed=settings.seed,
        )

    def _of_kind(self, kind: type[Task]) -> list[Task]:
        return [task for task in self._tasks if isinstance(task, kind)]

    def _activations(self, reading: Reading) -> Tensor:
        return self._cache.read(self._lm, reading, "texts")

    def _mean_activations(self, task: LabelledTexts) -> Tensor:
        reading = task.reading
        x_ND = self._once("mean activations", str(id(reading)), lambda: reading.pooled(self._activations(reading)))
        return x_ND[task.rows_N]

    def _mean_latents(self, task: LabelledTexts, subject: Subject) -> tuple[Tensor, float]:
        device = self._lm.device
        f_NF, l0 = subject.mean_latents(task.reading, lambda: self._activations(task.reading).to(device))
        return f_NF[task.rows_N], l0

    def _sparse_probing(self, subject: Subject) -> Measured:
        def measure(task: ProbingTask, f_NF: Tensor) -> dict[str, float]:
            def on(values_NE: Tensor) -> ProbeAccuracies:
                return probe_accuracies(values_NE, task.labels_N, task.train_N, seed=self._settings.seed)

            lm: ProbeAccuracies = self._once("sparse_probing", task.name, lambda: on(self._mean_activations(task)))
            return SparseProbing(on(f_NF * subject.norm_F), lm).metrics()

        return self._mean_over(ProbingTask, subject, measure)

    def _tpp(self, subject: Subject) -> Measured:
        def measure(task: ProbingTask, f_NF: Tensor) -> dict[str, float]:
            fitted: TppProbes = self._once(
                "tpp",
                task.name,
                lambda: fit_tpp_probes(
                    self._mean_activations(task), task.labels_N, task.train_N, seed=self._settings.seed
                ),
            )
            return tpp(fitted, f_NF, subject.sae.W_dec_FD.cpu()).metrics()

        return self._mean_over(ProbingTask, subject, measure)

    def _scr(self, subject: Subject) -> Measured:
        def measure(task: SpuriousTask, f_NF: Tensor) -> dict[str, float]:
            fitted: ScrProbes = self._once(
                "scr",
                task.name,
                lambda: fit_scr_probes(
                    self._mean_activations(task),
                    task.labels_N.bool(),
                    task.attributes_N,
                    task.train_N,
                    seed=self._settings.seed,
                ),
            )
            return scr(fitted, f_NF, subject.sae.W_dec_FD.cpu()).metrics()

        return self._mean_over(SpuriousTask, subject, measure)

    def _ood(self, subject: Subject) -> Measured:
        def measure(task: ShiftTask, f_NF: Tensor) -> dict[str, float]:
            def on(values_NE: Tensor) -> ShiftScores:
                return shift_scores(values_NE, task.labels_N, task.train_N, task.shifted_N)

            lm: ShiftScores = self._once("ood", task.name, lambda: on(self._mean_activations(task)))
            return ood(on(f_NF * subject.norm_F), lm, seed=self._settings.seed).metrics()

        return self._mean_over(ShiftTask, subject, measure)

    def _mean_over(
        self, kind: type[Task], subject: Subject, measure: Callable[[Task, Tensor], dict[str, float]]
    ) -> Measured:
        """Means over the tasks of a kind, each task's own figures, and the L0 on their texts."""
        each: dict[str, dict[str, float]] = {}
        l0s: list[float] = []
        for task in self._of_kind(kind):
            f_NF, l0 = self._mean_latents(task, subject)
            each[task.name] = measure(task, f_NF)
            l0s.append(l0)
        keys = dict.fromkeys(key for metrics in each.values() for key in metrics)
        means = {key: fmean(metrics[key] for metrics in each.values() if key in metrics) for key in keys}
        return Measured(means | {"l0": fmean(l0s)}, details={"tasks": each})

    def _once(self, purpose: str, name: str, make: Callable[[], Fitted]) -> Fitted:
        """What `make` gives, made the first time only."""
        if (purpose, name) not in self._fits:
            self._fits[purpose, name] = make()
        return self._fits[purpose, name]
