"""`init_from`: a run of one's own that another begins with, told by content, and what it ended with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from masked_sae.activations.scale import ActivationStatistics
from masked_sae.config import RunConfig
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.interop.saelens import weights_digest
from masked_sae.runs.checkpoint import load_checkpoint
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import read_state


@dataclass(frozen=True)
class Initial:
    """What training begins with in place of random weights. Adam, schedules and counters begin anew.

    Attributes:
        parameters: of the SAE, by name; learned thresholds that are no parameters are learned anew.
        statistics: of the activations that it was trained on: it reads what it was made for, by the same scale.
    """

    parameters: Mapping[str, Tensor]
    statistics: ActivationStatistics


def initial_digest(config: RunConfig) -> str | None:
    """Stands for the content of the run that a configuration begins with: the weights that it exported.

    Raises:
        InputError: it is not the folder of a run that is done, or one of another architecture or size.
    """
    if config.init_from is None:
        return None
    folder = RunFolder(Path(config.init_from).expanduser())
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


def load_initial(config: RunConfig, d_in: int) -> Initial:
    """What the run that a configuration begins with ended with.

    Args:
        d_in: of the activations here.

    Raises:
        InputError: its checkpoint is gone, or it was trained on activations of another size.
    """
    assert config.init_from is not None
    folder = RunFolder(Path(config.init_from).expanduser())
    state, checkpoint = read_state(folder.state), load_checkpoint(folder.checkpoints)
    if state is None or checkpoint is None or checkpoint.meta["step"] != state.steps:
        raise InputError("init_from", config.init_from, "a run whose checkpoint of its last step is whole")
    statistics = ActivationStatistics.from_json(checkpoint.meta["statistics"])
    if len(statistics.mean_D) != d_in:
        valid = f"a run on activations of d_in {d_in}, as they are here; it read such of {len(statistics.mean_D)}"
        raise InputError("init_from", config.init_from, valid)
    prefix = "sae/"
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)}
    return Initial({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, statistics)
