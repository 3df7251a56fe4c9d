"""`init_from`: what a run begins with in place of random weights. A run of one's own, told by the weights that it
exported, and what it ended with; or an SAE from elsewhere, told by its files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from masked_sae.activations.scale import ActivationStatistics
from masked_sae.config import RunConfig
from masked_sae.errors import DamagedFileError, InputError, notice
from masked_sae.interop.loading import digest_of, find_sae, is_folder, load_sae, read_metadata, read_sizes
from masked_sae.interop.saelens import weights_digest
from masked_sae.randomness import torch_generator
from masked_sae.runs.checkpoint import load_checkpoint
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import read_state
from masked_sae.saes import InferenceSAE, begin_as


@dataclass(frozen=True)
class Initial:
    """What training begins with in place of random weights. Adam, schedules and counters begin anew.

    Attributes:
        parameters: of the SAE, by name; learned thresholds that are no parameters are learned anew.
        statistics: of the activations that it was trained on: a run of one's own reads what it was made for, by the
            same scale; for an SAE from elsewhere they are measured.
    """

    parameters: Mapping[str, Tensor]
    statistics: ActivationStatistics


def initial_digest(config: RunConfig) -> str | None:
    """Stands for the content of what a configuration begins with.

    Raises:
        InputError: it is not the folder of a run that is done, nor an SAE; or one of another architecture or size.
    """
    if config.init_from is None:
        return None
    former = _former_run(config)
    return _digest_of_sae(config) if former is None else _digest_of_run(config, former)


def load_initial(config: RunConfig, d_in: int) -> Initial | InferenceSAE:
    """What the run that a configuration begins with ended with; or the SAE from elsewhere, see `as_initial`.

    Args:
        d_in: of the activations here.

    Raises:
        InputError: a checkpoint is gone, the SAE is damaged, or it was trained on activations of another size.
    """
    former = _former_run(config)
    return _load_sae(config, d_in) if former is None else _load_run(config, former, d_in)


def as_initial(config: RunConfig, sae: InferenceSAE, statistics: ActivationStatistics) -> Initial:
    """An SAE from elsewhere at the scale that it is to be trained at.

    Raises:
        InputError: the run's architecture has no parameters that say what it computes.
    """
    own = config.sae.make(sae.d_in, torch_generator(config.seed, "initial weights"))
    try:
        begin_as(own, sae, statistics.scale)
    except ValueError as error:
        valid = f"an SAE that sae={config.sae.architecture} can go on from, of {error}"
        raise InputError("init_from", config.init_from, valid) from None
    return Initial({name: parameter.detach() for name, parameter in own.named_parameters()}, statistics)


def _former_run(config: RunConfig) -> RunFolder | None:
    """The run of one's own; None for an SAE from elsewhere."""
    try:
        if not config.init_from or not is_folder(config.init_from):
            return None
    except InputError as error:
        raise _no_initial(config, error) from None
    folder = RunFolder(Path(config.init_from).expanduser())
    return folder if folder.config.exists() or folder.state.exists() else None


def _digest_of_run(config: RunConfig, folder: RunFolder) -> str:
    try:
        state = read_state(folder.state)
        if state is None or state.status != "done" or not folder.checkpoints.is_dir():
            raise FileNotFoundError
        former = read_config(folder.config).sae
        digest = weights_digest(folder.sae, config.digest_memory)
    except (OSError, DamagedFileError, InputError, AttributeError) as error:
        why = f" ({error.path} is damaged: {error.why})" if isinstance(error, DamagedFileError) else ""
        valid = f"the folder of a run that is done, with its checkpoints{why}"
        raise InputError("init_from", config.init_from, valid) from None
    ours = f"sae={config.sae.architecture} sae.d_sae={config.sae.d_sae}"
    theirs = f"sae={former.get('architecture')} sae.d_sae={former.get('d_sae')}"
    if ours != theirs:
        raise InputError("init_from", config.init_from, f"a run of {ours}, as this one is; it is one of {theirs}")
    return digest


def _digest_of_sae(config: RunConfig) -> str:
    try:
        folder = find_sae(config.init_from or "").folder
        read_metadata(folder, config.digest_memory)
        d_sae = read_sizes(folder).get("d_sae", config.sae.d_sae)
        digest = digest_of(folder, config.digest_memory)
    except (OSError, DamagedFileError, InputError) as error:
        raise _no_initial(config, error) from None
    if d_sae != config.sae.d_sae:
        valid = f"an SAE of sae.d_sae={config.sae.d_sae}, as this run's is; it has {d_sae} latents"
        raise InputError("init_from", config.init_from, valid)
    return digest


def _no_initial(config: RunConfig, error: Exception) -> InputError:
    why = error.valid if isinstance(error, InputError) else str(error)
    return InputError("init_from", config.init_from, f"the folder of a run that is done, or an SAE: {why}")


def _load_run(config: RunConfig, folder: RunFolder, d_in: int) -> Initial:
    state, checkpoint = read_state(folder.state), load_checkpoint(folder.checkpoints)
    if state is None or checkpoint is None or checkpoint.meta["step"] != state.steps:
        raise InputError("init_from", config.init_from, "a run whose checkpoint of its last step is whole")
    statistics = ActivationStatistics.from_json(checkpoint.meta["statistics"])
    if len(statistics.mean_D) != d_in:
        valid = f"a run on activations of d_in {d_in}, as they are here; it read such of {len(statistics.mean_D)}"
        raise InputError("init_from", config.init_from, valid)
    return Initial(checkpoint.sae, statistics)


def _load_sae(config: RunConfig, d_in: int) -> InferenceSAE:
    try:
        sae, metadata = load_sae(config.init_from or "", config.digest_memory)
    except (OSError, DamagedFileError, InputError) as error:
        raise _no_initial(config, error) from None
    if (sae.d_in, sae.d_sae) != (d_in, config.sae.d_sae):
        ours = f"d_in {d_in} and sae.d_sae={config.sae.d_sae}, as they are here"
        valid = f"an SAE of {ours}; it has {sae.d_in} and {sae.d_sae}"
        raise InputError("init_from", config.init_from, valid)
    read_at = metadata.get("hook_name")
    if read_at not in (None, config.lm.hook_name):
        notice(f"init_from={config.init_from} was trained at {read_at}, and this run reads {config.lm.hook_name}")
    return sae
