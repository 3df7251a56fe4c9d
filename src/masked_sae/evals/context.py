"""What SAEs of one LM and hook point share while they are measured: each text is read and each probe fitted once.

Axes: N texts, P positions, D `d_in`, F `d_sae`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from torch import Tensor

from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.bundled import find_folder
from masked_sae.evals.family import Measured
from masked_sae.evals.settings import EvalSettings
from masked_sae.evals.texts.activation_cache import ActivationCache, TokenizedTexts
from masked_sae.evals.texts.labelled import LabelledTexts, Sizes
from masked_sae.evals.texts.stdlib import stdlib_tasks
from masked_sae.evals.texts.task_settings import hub_tasks
from masked_sae.saes import InferenceSAE

Made = TypeVar("Made")
Task = TypeVar("Task", bound=LabelledTexts)


@dataclass
class EvaluatedSAE:
    """An SAE, and its mean latents on the texts read so far: every position is encoded once."""

    sae: InferenceSAE
    _pooled: dict[int, tuple[Tensor, float]] = field(default_factory=dict[int, tuple[Tensor, float]])

    def mean_latents(self, texts: TokenizedTexts, activations: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """Means over each text's positions (N, F), and L0 over them."""
        if id(texts) not in self._pooled:
            self._pooled[id(texts)] = texts.pooled_latents(self.sae.encode, activations(), self.sae.d_sae)
        return self._pooled[id(texts)]

    @property
    def norm_F(self) -> Tensor:  # noqa: N802
        """Of the decoder's rows: what a latent has to be multiplied by, to be in the activations' units."""
        return self.sae.W_dec_FD.norm(dim=1).cpu()


class EvalContext:
    """One LM and hook point, the texts, and what was read and fitted so far.

    Attributes:
        held_out: clean sequences.
        cache: of the LM's activations.
        lm_name: a folder that may hold the truth of a synthetic LM.
    """

    def __init__(
        self, lm: LM, held_out: Sequences, cache: ActivationCache, settings: EvalSettings, lm_name: str
    ) -> None:
        self.lm, self.held_out, self.cache, self.settings = lm, held_out, cache, settings
        self.lm_folder = find_folder(lm_name)
        self._made: dict[tuple[str, ...], Any] = {}
        self._texts: dict[tuple[Any, ...], Any] = {}

    def beside(self, lm: LM, cache: ActivationCache, settings: EvalSettings) -> "EvalContext":
        """For the same LM and text at another hook point, or with other settings: with the texts that were made here.

        Args:
            cache: of that hook point.
        """
        other = EvalContext(lm, self.held_out, cache, settings, str(self.lm_folder))
        other._texts = self._texts
        return other

    def with_settings(self, settings: EvalSettings) -> "EvalContext":
        """This one where they are the same."""
        if settings == self.settings:
            return self
        return self.beside(self.lm, replace(self.cache, folder=Path(settings.cache_dir)), settings)

    def once(self, key: tuple[str, ...], make: Callable[[], Made]) -> Made:
        """What `make` gives, made the first time only."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def texts_once(self, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        """As `once`, of what depends on no hook point, and on no settings but those in the key."""
        if key not in self._texts:
            self._texts[key] = make()
        return self._texts[key]

    @cached_property
    def tasks(self) -> Sequence[LabelledTexts]:
        """Labelled texts."""
        settings = self.settings
        key = (json.dumps(settings.tasks), settings.seed, settings.text_tokens, settings.texts_per_class)
        return self.texts_once(("tasks", *key), self._make_tasks)

    def _make_tasks(self) -> Sequence[LabelledTexts]:
        settings = self.settings
        if settings.tasks:
            return hub_tasks(settings.tasks, self.lm.tokenizer, self.lm.special, seed=settings.seed)
        limit = settings.texts_per_class
        return stdlib_tasks(
            self.lm.tokenizer,
            self.lm.special,
            text_tokens=settings.text_tokens,
            sizes=None if limit is None else Sizes(limit, limit),
            seed=settings.seed,
        )

    def mean_activations(self, task: LabelledTexts) -> Tensor:
        """Of the LM, over each of the task's texts, (N, D)."""
        texts = task.texts
        x_ND = self.once(("mean activations", str(id(texts))), lambda: texts.pooled(self._activations(texts)))
        return x_ND[task.rows_N]

    def mean_latents(self, task: LabelledTexts, evaluated: EvaluatedSAE) -> tuple[Tensor, float]:
        """Of the SAE, over each of the task's texts, (N, F), and the L0 on all texts that were read with them."""
        f_NF, l0 = evaluated.mean_latents(task.texts, lambda: self._activations(task.texts).to(self.lm.gives_on))
        return f_NF[task.rows_N], l0

    def mean_over_tasks(
        self, kind: type[Task], evaluated: EvaluatedSAE, measure: Callable[[Task, Tensor], dict[str, float]]
    ) -> Measured:
        """Means over the tasks of a kind, each task's own figures, and the L0 on their texts."""
        each: dict[str, dict[str, float]] = {}
        l0s: list[float] = []
        for task in self.tasks:
            if isinstance(task, kind):
                f_NF, l0 = self.mean_latents(task, evaluated)
                each[task.name] = measure(task, f_NF)
                l0s.append(l0)
        keys = dict.fromkeys(key for metrics in each.values() for key in metrics)
        means = {key: fmean(metrics[key] for metrics in each.values() if key in metrics) for key in keys}
        return Measured(means | {"l0": fmean(l0s)}, details={"tasks": each})

    def _activations(self, texts: TokenizedTexts) -> Tensor:
        return self.cache.read(self.lm, texts, "texts")
