"""What training goes on from: into a checkpoint, and back."""

from typing import Any

import torch

from masked_sae.ranks import Ranks
from masked_sae.runs.checkpoint import Checkpoint, of_sae
from masked_sae.runs.initial import Initial
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.shards import whole_moments, whole_weights


def capture(training: SAETraining, extra: dict[str, Any]) -> Checkpoint:
    """All that training goes on from: parameters, counters, thresholds, Adam's moments, and the step.

    Random state and the stream's position are functions of the seed and the step. Where latents are divided among
    ranks all of them call this, and the first one has it: it says nothing of how many they are.
    """
    if training.sae.shards.is_alone:
        weights, states = training.sae.state_dict(), training.optimizer.state_dict()["state"]
        moments = {f"{index}/{name}": one for index, state in states.items() for name, one in state.items()}
    else:
        weights, moments = whole_weights(training), whole_moments(training)
    tensors = of_sae(weights) | {f"optimizer/{name}": tensor for name, tensor in moments.items()}
    return Checkpoint(tensors, {**extra, "step": training.step})


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
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            index, _, key = rest.partition("/")
            moments.setdefault(int(index), {})[key] = tensor
    training.sae.load_state_dict(checkpoint.sae)
    training.step = checkpoint.meta["step"]
    optimizer = training.optimizer
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
