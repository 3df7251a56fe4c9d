"""Metrics of a run's SAE, from its folder into its folder; what was measured before is not measured again."""

import time
from collections.abc import Mapping, Sequence
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
from masked_sae.evals.family import find_family
from masked_sae.evals.settings import EvalSettings
from masked_sae.evals.texts.activation_cache import ActivationCache
from masked_sae.lm_files import lm_digest
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import read_family, write_family, write_results
from masked_sae.runs.run import Run
from masked_sae.saes import InferenceSAE


def make_context(config: MeasuringConfig, lm: LM, held_out: Sequences) -> EvalContext:
    """For a run's LM, hook point and held-out text. Activations on disk are another version's of the LM's library no
    more than another LM's: hook points have changed their values between releases.
    """
    library = version("transformer-lens")
    weights = lm_digest(config.lm.name, config.lm.revision, config.digest_memory)
    lm_key = f"{weights}/{config.lm.hook_name}/{config.lm.dtype}/transformer-lens {library}"
    cache = ActivationCache(
        Path(config.eval.cache_dir), lm_key, config.lm.batch_size, config.trainer.progress, config.digest_memory
    )
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
    """Measures what is asked for and not yet measured, each family into a file; then writes `results.json`.

    Families that were measured before stay, as long as their settings are still the same.

    Args:
        own: see `write_results`.

    Returns:
        All metrics, keyed `family/metric`.
    """
    settings, evaluated = run.config.eval, EvaluatedSAE(sae)
    missing = unmeasured(run.folder, settings)
    for name in tqdm(missing, desc="evaluation", unit="family", leave=False, disable=not run.config.trainer.progress):
        family = find_family(name, settings)
        start = time.monotonic()
        with torch.inference_mode():
            measured = family.measure(evaluated, context)
        seconds = round(time.monotonic() - start, 2)
        write_family(run.folder, family, settings.of(name, family.depends_on), measured, seconds)
    return write_results(run.folder, run.settings, own)


def _is_measured(folder: RunFolder, name: str, settings: EvalSettings) -> bool:
    try:
        stored = read_family(folder, name)
    except DamagedFileError as damaged:
        notice(f"{damaged.path} is damaged ({damaged.why}): it is measured again")
        return False
    family = find_family(name, settings)
    return stored is not None and family.covers(stored["settings"], settings.of(name, family.depends_on))


def evaluate_all(runs, saes, context, owns):  # TEMPORARY
    out = []
    for run, sae, own in zip(runs, saes, owns):
        try:
            out.append(evaluate(run, sae, context, own))
        except Exception as error:
            out.append(error)
    return out
