"""An SAE in training whose latents are divided among ranks: its tensors in parts, and whole again on the first rank.

Each rank has as many latents, one after another: their rows of every parameter and buffer by latents, and Adam's
moments of these. `b_dec` and scalars each rank has.

Nothing here needs the whole SAE on a device: a tensor is whole on the first rank's CPU, one at a time.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from masked_sae.ranks import ALONE, Ranks
from masked_sae.saes import SAE
from masked_sae.saes.sae import is_by_latents
from masked_sae.training.sae_training import SAETraining


@torch.no_grad()
def divide(training: SAETraining, shards: Ranks, device: torch.device) -> None:
    """Gives each rank its part of the first one's SAE and optimizer, on its device.

    Args:
        training: whole, and nothing of it on a device yet; of all ranks but the first only shapes count.
    """
    sae, optimizer = training.sae, training.optimizer
    for name, tensor in _tensors_of(sae):
        tensor.data = _part(tensor.data, name, shards).to(device)
    sae.to(device)  # what is in no checkpoint
    sae.divide_latents(shards)
    training.step, kept = shards.tell([training.step, _moments(training)])[0]
    for (name, parameter), shapes in zip(sae.named_parameters(), kept, strict=True):
        state = optimizer.state[parameter] if shapes else {}
        for key, (shape, dtype) in shapes.items():
            whole = state[key] if shards.is_first else torch.empty(shape, dtype=getattr(torch, dtype))
            state[key] = _part(whole, name, shards).to(device)


def make_whole(training: SAETraining) -> None:
    """After the last step: on the first rank the SAE is one again, on the CPU, and there is no optimizer any more."""
    training.optimizer.state.clear()
    if training.sae.shards.is_first:
        training.sae = whole_sae(training, torch.device("cpu"))
    else:
        whole_weights(training)


def whole_weights(training: SAETraining) -> dict[str, Tensor]:
    """The SAE's parameters and buffers, by name, on the first rank's CPU; nothing on the others."""
    training.announce(WEIGHTS)
    shards = training.sae.shards
    found = {name: _whole(tensor, name, shards) for name, tensor in training.sae.state_dict().items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def whole_moments(training: SAETraining) -> dict[str, Tensor]:
    """The optimizer's tensors, as INDEX/KEY, likewise."""
    training.announce(MOMENTS)
    sae, found = training.sae, dict[str, Tensor]()
    for index, (name, parameter) in enumerate(sae.named_parameters()):
        for key, tensor in training.optimizer.state.get(parameter, {}).items():
            whole = _whole(tensor, name, sae.shards)
            if whole is not None:
                found[f"{index}/{key}"] = whole
    return found


def whole_sae(training: SAETraining, device: torch.device) -> SAE:
    """The SAE as one, to be measured and not trained: on the first rank, while all others call `whole_weights`."""
    sae = training.sae
    if sae.shards.is_alone:
        return sae
    weights = whole_weights(training)
    instead: dict[int, object] = {id(sae.shards): ALONE}
    for name, tensor in _tensors_of(sae):
        whole = weights.pop(name).to(device)
        instead[id(tensor)] = nn.Parameter(whole) if isinstance(tensor, nn.Parameter) else whole
    return copy.deepcopy(sae, instead)


@torch.no_grad()
def mean_threshold(training: SAETraining) -> Tensor:
    """Over all latents, scalar; 0 where an SAE has no thresholds."""
    training.announce(THRESHOLD)
    threshold_F = training.sae.thresholds()
    mean = training.sae.b_dec_D.new_zeros(()) if threshold_F is None else threshold_F.mean()
    return training.sae.shards.mean(mean)


WEIGHTS, MOMENTS, THRESHOLD = 2, 3, 4  # what the first rank asks the others for
ANSWERS: dict[int, Callable[[SAETraining], object]] = {
    WEIGHTS: whole_weights,
    MOMENTS: whole_moments,
    THRESHOLD: mean_threshold,
}


def _tensors_of(sae: SAE) -> Iterator[tuple[str, Tensor]]:
    """Those of a checkpoint, by their names in it."""
    yield from sae.state_dict(keep_vars=True).items()


def _moments(training: SAETraining) -> list[dict[str, tuple[list[int], str]]]:
    """Shapes and dtypes of the optimizer's tensors, by name, of each parameter; none before the first step."""
    states = [training.optimizer.state.get(parameter, {}) for parameter in training.sae.parameters()]
    return [
        {key: (list(one.shape), str(one.dtype).removeprefix("torch.")) for key, one in state.items()}
        for state in states
    ]


def _part(whole: Tensor, name: str, shards: Ranks) -> Tensor:
    """This rank's of the first one's, on the CPU."""
    if not is_by_latents(name) or whole.dim() == 0:
        return shards.from_first(whole.detach().cpu().contiguous())
    like = whole.detach()[shards.share(len(whole))]
    return shards.part_of_first(whole if shards.is_first else None, like)


def _whole(part: Tensor, name: str, shards: Ranks) -> Tensor | None:
    if is_by_latents(name) and part.dim() > 0:
        return shards.to_first(part)
    return part.detach().cpu() if shards.is_first else None
