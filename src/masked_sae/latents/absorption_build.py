"""A run's page of absorption, from its folder into its folder; of two runs, into the first one's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from masked_sae.errors import DamagedFileError, InputError, notice
from masked_sae.evals.settings import EvalSettings
from masked_sae.latents.absorption_page import write_absorption_page
from masked_sae.latents.absorption_view import shown_sets
from masked_sae.latents.opened import OpenedRun, open_run
from masked_sae.lm_files import lm_digest
from masked_sae.runs.config_file import read_config
from masked_sae.runs.recorded import keys_of, refused_in_a_line
from masked_sae.runs.results import read_family
from masked_sae.runs.run import Run


@dataclass
class AbsorptionSettings:
    """What of `eval` says where absorption is measured."""

    seed: int
    concepts: list[str]
    concept_tokens: int
    concept_words: int | None


def write_absorption(opened: OpenedRun, overrides: Sequence[str], against: Run | None = None) -> Path:
    """Writes `absorption.html`, or `absorption_against_<run>.html`, into the run's folder.

    Both runs are looked at where the first one was measured, unless the command line says otherwise.

    Args:
        overrides: what stood on the command line.
        against: the run beside it, of the same LM and hook point: see `refuse_other_lm`.

    Raises:
        InputError, DamagedFileError: the other run has no SAE that can be read.
    """
    run = opened.run
    settings = _settings(run, overrides)
    settings.check()
    context = opened.context.with_settings(settings)
    several = [opened] if against is None else [opened, open_run("against", against, context)]
    sets = shown_sets([one.sae for one in several], context, settings.concepts)
    path = run.folder.absorption(against="" if against is None else against.folder.path.resolve().name)
    return write_absorption_page(path, [one.run for one in several], sets)


def refuse_other_lm(run: Run, against: Run) -> None:
    """Their activations would not be the same ones.

    Raises:
        InputError: of `against`.
    """
    folder, one, other = against.folder.path, run.config, against.config
    if other.lm.hook_name != one.lm.hook_name:
        valid = f"a run at the same hook point, {one.lm.hook_name}: this one is at {other.lm.hook_name}"
        raise InputError("against", folder, valid)
    digests = [lm_digest(each.lm.name, each.lm.revision, each.digest_memory) for each in (one, other)]
    if digests[0] != digests[1]:
        raise InputError("against", folder, f"a run of the same LM, {one.lm.name}: this one is of {other.lm.name}")


def _settings(run: Run, overrides: Sequence[str]) -> EvalSettings:
    """Those that the run's absorption was measured with, or would have been; what the command line says goes first."""
    named = keys_of(overrides)
    asked = run.config.eval
    if "eval" in named:
        return asked
    with refused_in_a_line("run", run.folder.path):
        recorded = _recorded(run)
        known: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(AbsorptionSettings), recorded))
    kept = {key: value for key, value in asdict(known).items() if f"eval.{key}" not in named}
    return replace(asked, **kept)


def _recorded(run: Run) -> dict[str, Any]:
    try:
        measured = read_family(run.folder, "absorption")
    except DamagedFileError as error:
        notice(f"{error}: the settings of config.yaml are taken")
        measured = None
    stored: Any = OmegaConf.to_container(read_config(run.folder.config).get("eval")) if measured is None else None
    found = stored if measured is None else measured["settings"]
    return {key: found[key] for key in AbsorptionSettings.__annotations__}
