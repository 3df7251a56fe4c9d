"""A run that says it is done: what it lacks after all, and what can be had again without training."""

from dataclasses import dataclass

from masked_sae.config import MeasuringConfig
from masked_sae.errors import DamagedFileError, InputError, notice
from masked_sae.interop.saelens import check_sae
from masked_sae.runs.checkpoint import load_checkpoint
from masked_sae.runs.config_file import read_config, write_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import describe_own, read_family_file, read_results, write_results
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState, read_state
from masked_sae.training.evaluation import unmeasured
from masked_sae.training.threads import own_threads, with_threads


@dataclass(frozen=True)
class Lacking:
    """Attributes:
    sae: what is wrong with its SAE; empty where it is what was exported.
    families: of metrics, that are not measured.
    results: what is wrong with its `results.json`.
    config: what is wrong with its `config.yaml`.
    """

    sae: str
    families: list[str]
    results: str
    config: str

    def __bool__(self) -> bool:
        return bool(self.sae or self.families or self.results or self.config)


def is_complete(run: Run, state: RunState | None) -> bool:
    """Whether there is nothing left to train, to measure or to mend."""
    return state is not None and state.status == "done" and not find_lacking(run.folder, run.config)


def is_left_out(run: Run) -> bool:
    """Whether a command has nothing to do for it. Of one that is damaged whoever trains it says so."""
    try:
        return not run.config.force and is_complete(run, known_state(run.folder))
    except DamagedFileError:
        return False


def known_state(folder: RunFolder, *, tell: bool = False) -> RunState | None:
    """The run's state; None where there is none that can be read.

    Args:
        tell: whether to say that one cannot.
    """
    try:
        return read_state(folder.state)
    except DamagedFileError as error:
        if tell:
            notice(f"{error}: going by what else is in the folder")
        return None


def mended(run: Run) -> RunState | None:
    """The state of a run that is done, once its results are what was measured; None of one that is to be trained,
    exported or measured.

    Raises:
        DamagedFileError: its SAE is not what was exported, or nobody knows how far it is, and there is no checkpoint to
            go on from.
    """
    folder, state = run.folder, known_state(run.folder)
    if state is None:
        if folder.sae.exists() and load_checkpoint(folder.checkpoints) is None:
            why = "damaged" if folder.state.exists() else "gone"
            raise DamagedFileError(folder.path, f"state.json is {why}, and there is no checkpoint to go on from", _ANEW)
        return None
    if state.status != "done":
        return None
    lacking = find_lacking(folder, run.config)
    if lacking.config:
        notice(f"{lacking.config}: it is written again, as this command has it")
        write_config(folder.config, with_threads(run, own_threads(folder, None)).settings)
    if lacking.sae:
        checkpoint = load_checkpoint(folder.checkpoints)
        if checkpoint is None or checkpoint.meta["step"] != state.steps:
            raise DamagedFileError(folder.path, f"{lacking.sae}; its last checkpoint is gone, too", _ANEW)
        notice(f"{lacking.sae}: it is exported again from the last checkpoint")
        return None
    if lacking.families:
        return None
    if lacking.results:
        notice(f"{lacking.results}: written again from {folder.evals}")
        write_results(folder, run.settings, describe_own(run.config))
    return state


_ANEW = "force=true trains it again"


def find_lacking(folder: RunFolder, config: MeasuringConfig) -> Lacking:
    """What a run that is done lacks.

    Raises:
        DamagedFileError: metrics that nobody asks for now, so that they are not measured again.
    """
    families = unmeasured(folder, config.eval)  # without the files of damaged ones
    results = "" if families else _wrong_with_results(folder)
    return Lacking(wrong_with_sae(folder, config), families, results, _wrong_with_config(folder))


def wrong_with_sae(folder: RunFolder, config: MeasuringConfig) -> str:
    """Why its SAE is not what was exported; empty where it is."""
    if not folder.sae.exists():
        return f"{folder.sae} is gone"
    try:
        check_sae(folder.sae, config.digest_memory)
    except (DamagedFileError, InputError) as error:
        return str(error)
    return ""


def _wrong_with_config(folder: RunFolder) -> str:
    try:
        read_config(folder.config)
    except FileNotFoundError:
        return f"{folder.config} is gone"
    except DamagedFileError as error:
        return f"{error.path} is damaged ({error.why})"
    return ""


def _wrong_with_results(folder: RunFolder) -> str:
    try:
        written = read_results(folder).metrics
    except FileNotFoundError:
        return f"{folder.results} is gone"
    except DamagedFileError as error:
        return str(error)
    measured = {path.stem: read_family_file(path)["metrics"] for path in folder.evals.glob("*.json")}
    found = {f"{family}/{key}": value for family, metrics in measured.items() for key, value in metrics.items()}
    return "" if written == found else f"{folder.results} has other metrics than {folder.evals}"
