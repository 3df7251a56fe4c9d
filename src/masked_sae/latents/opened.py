"""A run opened to be looked into: its SAE, its LM, and held-out text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.evals.context import EvalContext
from masked_sae.interop.saelens import load_sae
from masked_sae.runs.folder import run_folder_of
from masked_sae.runs.recorded import recorded_run
from masked_sae.runs.run import Run, find_inputs
from masked_sae.saes import InferenceSAE
from masked_sae.training.assemble import find_device, load_lm_and_text
from masked_sae.training.evaluation import make_context
from masked_sae.training.threads import use_threads


@dataclass(frozen=True)
class OpenedRun:
    """Attributes:
    sae: as it was exported, where the LM gives its activations.
    context: the LM at the run's hook point, the held-out text, and what is read and fitted of them.
    """

    run: Run
    sae: InferenceSAE
    context: EvalContext


def find_run(key: str, folder: Path, settings: RunConfig, overrides: Sequence[str]) -> Run:
    """The run in a folder, or in the folder that this `sae/` is in, with what stood on the command line.

    Args:
        key: of the command, that names the folder.

    Raises:
        InputError, DamagedFileError: it is no run's, or the run has no SAE yet.
    """
    run = run_folder_of(folder)
    if not run.config.exists():
        raise InputError(key, folder, "a run's folder: this one holds no config.yaml")
    if not run.sae.is_dir():
        raise InputError(key, folder, "a run that is done: this one has no SAE yet")
    return recorded_run(key, run, settings, overrides)


def open_run(key: str, run: Run, context: EvalContext | None = None) -> OpenedRun:
    """Loads what is looked at. The LM is read on unmasked text.

    Args:
        key: of the command, that names the run's folder.
        context: of another run of the same LM, hook point and text, which are used again.

    Raises:
        InputError, DamagedFileError: SAE, LM or text cannot be read, or do not belong together.
    """
    config = run.config
    use_threads(run.folder, config.trainer.threads)
    sae, _ = load_sae(run.sae, config.digest_memory)
    if context is None:
        device = find_device(config.trainer.device)
        found = load_lm_and_text(config, find_inputs(config), device)
        context = make_context(config, found.lm, found.held_out)
    if sae.d_in != context.lm.d_in:
        lm = f"{config.lm.name} at {config.lm.hook_name}"
        raise InputError(key, run.sae, f"an SAE for the {context.lm.d_in} dimensions of {lm}: this one has {sae.d_in}")
    return OpenedRun(run, sae.to(context.lm.gives_on), context)
