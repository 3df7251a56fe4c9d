"""What training goes on from: into a checkpoint, and back."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from masked_sae.ranks import Ranks
from masked_sae.runs.checkpoint import Checkpoint, of_sae
from masked_sae.runs.initial import Initial
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.shards import whole_moments, whole_weights

_TENSOR, _NUMBER = (
    "optimizer",
    "optimizer_number",
)  # of its state: most is tensors, some libraries count in plain numbers


def capture(training: SAETraining, extra: dict[str, Any]) -> Checkpoint:
    """All that training goes on from: parameters, counters, thresholds, the optimizer's moments, and the step.

    Random state and the stream's position are functions of the seed and the step. Where latents are divided among
    ranks all of them call this, and the first one has it: it says nothing of how many they are.
    """
    at = {**extra, "step": training.step}
    if training.sae.shards.is_alone:
        return Checkpoint(of_sae(training.sae.state_dict()) | _state_of(training.optimizer), at)
    weights, moments = whole_weights(training), whole_moments(training)
    return Checkpoint(of_sae(weights) | {f"{_TENSOR}/{name}": tensor for name, tensor in moments.items()}, at)


def _state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    shared: set[int] = set()  # between parameters, as bitsandbytes' tables are: a file has each for itself
    for index, state in _states(optimizer):
        for name, value in state.items():
            if not isinstance(value, Tensor):
                tensors[f"{_NUMBER}/{index}/{name}"] = torch.tensor(value)
                continue
            tensors[f"{_TENSOR}/{index}/{name}"] = value.clone() if value.data_ptr() in shared else value
            shared.add(value.data_ptr())
    return tensors


def _states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, dict[str, Any]]]:
    """By the parameter's place, as `load_state_dict` takes them; `state_dict` may pack them otherwise."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        if parameter in optimizer.state:
            yield index, optimizer.state[parameter]


def share(training: SAETraining, ranks: Ranks) -> None:
    """Puts every rank's SAE and optimizer where the first one's are."""
    if ranks.is_alone:
        return
    mine = capture(training, {})
    shapes = {name: [list(one.shape), str(one.dtype), one.device.type] for name, one in mine.tensors.items()}
    told = ranks.tell({"shapes": shapes, "step": training.step})[0]
    tensors: dict[str, torch.Tensor] = {}
    for name, (shape, dtype, device) in told["shapes"].items():
        empty = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device=device)
        own = mine.tensors[name].detach().contiguous() if ranks.is_first else empty
        tensors[name] = ranks.from_first(own)
    if not ranks.is_first:
        restore(training, Checkpoint(tensors, {"step": told["step"]}))


def begin_with(training: SAETraining, initial: Initial) -> None:
    """Gives the SAE another's parameters; what it counts and learns beside them begins anew."""
    with torch.no_grad():
        for name, parameter in training.sae.named_parameters():
            parameter.copy_(initial.parameters[name])


def restore(training: SAETraining, checkpoint: Checkpoint) -> None:
    """Puts SAE and optimizer where `capture` found them."""
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in checkpoint.tensors.items():
        kind, _, rest = name.partition("/")
        if kind in (_TENSOR, _NUMBER):
            index, _, key = rest.partition("/")
            moments.setdefault(int(index), {})[key] = tensor if kind == _TENSOR else tensor.item()
    training.sae.load_state_dict(checkpoint.sae)
    training.step = checkpoint.meta["step"]
    optimizer = training.optimizer
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
