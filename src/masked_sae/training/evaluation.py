"""Metrics of runs' SAEs, from their folders into their folders; what was measured before is not measured again."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.config import MeasuringConfig
from masked_sae.errors import DamagedFileError, notice
from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, find_family
from masked_sae.evals.settings import EvalSettings
from masked_sae.evals.texts.activation_cache import ActivationCache
from masked_sae.lm_files import lm_digest
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import read_family, write_family, write_results
from masked_sae.runs.run import Run
from masked_sae.saes import InferenceSAE
from masked_sae.training.out_of_memory import EVALUATION, told


def make_context(
    config: MeasuringConfig, lm: LM, held_out: Sequences, beside: EvalContext | None = None
) -> EvalContext:
    """For a run's LM, hook point and held-out text. Activations on disk are another version's of the LM's library no
    more than another LM's: hook points have changed their values between releases.

    Args:
        beside: of the same LM and held-out text at another hook point: what it makes of texts is made once.
    """
    library = version("transformer-lens")
    weights = lm_digest(config.lm.name, config.lm.revision, config.digest_memory)
    lm_key = f"{weights}/{config.lm.hook_name}/{config.lm.dtype}/transformer-lens {library}"
    cache = ActivationCache(
        Path(config.eval.cache_dir), lm_key, config.lm.batch_size, config.trainer.progress, config.digest_memory
    )
    if beside is not None:
        return beside.beside(lm, cache, config.eval)
    return EvalContext(lm, held_out, cache, config.eval, config.lm.name)


def unmeasured(folder: RunFolder, settings: EvalSettings) -> list[str]:
    """The families that are asked for and not yet measured with these settings."""
    return [name for name in settings.families if not _is_measured(folder, name, settings)]


def forget(folder: RunFolder, families: Sequence[str]) -> None:
    """Has these families measured again."""
    for family in families:
        folder.family(family).unlink(missing_ok=True)


def evaluate(
    run: Run, sae: InferenceSAE, context: EvalContext, own: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """As `evaluate_all`, of one run; what was raised is raised."""
    (found,) = evaluate_all([run], [sae], context, [own])
    if isinstance(found, Exception):
        raise found
    return found


def evaluate_all(
    runs: Sequence[Run],
    saes: Sequence[InferenceSAE],
    context: EvalContext,
    owns: Sequence[Mapping[str, Any] | None],
) -> list[dict[str, float] | Exception]:
    """Measures what each run asks for and has not yet, each family into a file; then writes its `results.json`.

    Families that were measured before stay, as long as their settings are still the same. Those that gain from it are
    measured of all runs at once; each run's figures are, to the bit, those that it has alone. `seconds` are then the
    run's share.

    Args:
        runs: of one LM, hook point and text, which are the context's; their `eval` may differ.
        owns: see `write_results`.

    Returns:
        Of each run all metrics, keyed `family/metric`, or what was raised for it: it harms no other.
    """
    members = [_Member(*each) for each in zip(runs, saes, owns, strict=True)]
    for member in members:
        with member.for_itself():
            member.missing = unmeasured(member.run.folder, member.run.config.eval)
    total = sum(len(member.missing) for member in members)
    silent = not any(run.config.trainer.progress for run in runs)
    with tqdm(total=total, desc="evaluation", unit="family", leave=False, disable=silent) as bar:
        while waiting := [member for member in members if member.waits]:
            settings = waiting[0].run.config.eval
            alike = [member for member in waiting if member.run.config.eval == settings]
            _measure(alike, context.with_settings(settings), bar)
    for member in members:
        if member.error is not None:
            continue
        with member.for_itself():
            member.metrics = write_results(member.run.folder, member.run.settings, member.own)
    return [member.metrics if member.error is None else member.error for member in members]


@dataclass
class _Member:
    """Attributes:
    missing: families to measure.
    metrics: once all are measured.
    error: what ended its evaluation.
    """

    run: Run
    sae: InferenceSAE
    own: Mapping[str, Any] | None
    missing: list[str] = field(default_factory=list[str])
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    error: Exception | None = None

    @property
    def waits(self) -> bool:
        return self.error is None and bool(self.missing)

    @contextmanager
    def for_itself(self) -> Generator[None]:
        """What is raised within ends this member's evaluation, and is raised no further."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.error = told(error, EVALUATION, self.run)

    def note(self, family: Family, measured: Measured | Exception, seconds: float) -> None:
        self.missing.remove(family.name)
        with self.for_itself():
            if isinstance(measured, Exception):
                raise measured
            settings = self.run.config.eval.of(family.name, family.depends_on)
            write_family(self.run.folder, family, settings, measured, round(seconds, 2))


def _measure(members: Sequence[_Member], context: EvalContext, bar: Any) -> None:
    """First what is measured together; then one SAE after another, since what one keeps of its latents is large."""
    for name in dict.fromkeys(name for member in members for name in member.missing):
        family = find_family(name, context.settings)
        wanting = [member for member in members if member.waits and name in member.missing]
        if family.together is not None and len(wanting) > 1:
            _measure_family(family, wanting, [EvaluatedSAE(member.sae) for member in wanting], context)
            bar.update(len(wanting))
    for member in members:
        evaluated = EvaluatedSAE(member.sae)
        while member.waits:
            _measure_family(find_family(member.missing[0], context.settings), [member], [evaluated], context)
            bar.update()


def _measure_family(
    family: Family, members: Sequence[_Member], evaluated: Sequence[EvaluatedSAE], context: EvalContext
) -> None:
    start = time.monotonic()
    with torch.inference_mode():
        found = family.measure_all(evaluated, context)
    seconds = (time.monotonic() - start) / len(members)
    for member, measured in zip(members, found, strict=True):
        member.note(family, measured, seconds)


def _is_measured(folder: RunFolder, name: str, settings: EvalSettings) -> bool:
    try:
        stored = read_family(folder, name)
    except DamagedFileError as damaged:
        notice(f"{damaged.path} is damaged ({damaged.why}): it is measured again")
        return False
    family = find_family(name, settings)
    return stored is not None and family.covers(stored["settings"], settings.of(name, family.depends_on))
