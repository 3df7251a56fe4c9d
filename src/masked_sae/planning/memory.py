"""What a job's devices hold at one time while it trains, beside what an idle process does. Evaluation is not counted.

`training/memory.py` bounds the same by settings alone, to decide what is packed; here the LM has been laid out.

Axes: B activations, D `d_in`, F `d_sae`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from masked_sae.activations.lm_device import runs_ahead, share_beside
from masked_sae.config import RunConfig
from masked_sae.planning.reading import Reading
from masked_sae.runs.run import Run
from masked_sae.training.memory import device_of_saes
from masked_sae.training.optimizers import state_bytes, step_bytes

_FLOAT = 4  # bytes
_LM, _FORWARD, _WINDOW, _SAES, _GRADIENTS, _STEP = "LM", "forward", "windows", "SAEs", "gradients", "step"
_HELP = {  # what makes a part smaller
    _LM: ("lm.device", "lm.dtype"),
    _FORWARD: ("lm.micro_batch_size", "lm.batch_size", "data.context_length"),
    _WINDOW: ("data.ahead", "data.window_tokens"),
    _SAES: ("pack", "sae.d_sae"),
    _GRADIENTS: ("sae.d_sae",),
    _STEP: ("data.batch_size", "sae.d_sae"),
}


@dataclass(frozen=True)
class Memory:
    """Attributes:
    parts: bytes, by what they are of. A forward and a step take turns, so the sum is more than there is at one time;
        but where the next window is made ahead.
    beside: share of the LM that lies where the SAEs train.
    ahead: whether the next window is made while the SAEs train on this one.
    """

    parts: dict[str, int]
    beside: float = 1.0
    ahead: bool = False

    @property
    def peak(self) -> int:
        """Of the device that the SAEs train on."""
        kept = math.ceil(self.beside * self.parts[_LM]) + self.parts[_WINDOW] + self.parts[_SAES]
        forward = self.parts[_FORWARD] if self.beside else 0
        step = self.parts[_GRADIENTS] + self.parts[_STEP]
        return kept + (forward + step if self.ahead else max(forward, step))

    @property
    def lm_peak(self) -> int | None:
        """Of each other device that the LM lies on; None where there is none."""
        if self.beside == 1:
            return None
        return math.ceil((self.beside or 1) * self.parts[_LM]) + self.parts[_FORWARD]

    def help(self, members: int) -> str:
        """The keys that make it smaller, those of the largest part first."""
        steps = self.parts[_GRADIENTS] + self.parts[_STEP]
        apart = (_GRADIENTS, _STEP) if self.parts[_FORWARD] > steps else (_FORWARD,)
        apart = (*(() if self.ahead else apart), *(() if self.beside else (_LM, _FORWARD)))
        at_peak = sorted((name for name in self.parts if name not in apart), key=lambda name: -self.parts[name])
        useless = {*(() if members > 1 else ("pack",)), *(() if self.ahead else ("data.ahead",))}
        keys = [key for name in at_peak[:2] for key in _HELP[name] if key not in useless]
        return ", ".join(dict.fromkeys(keys))


def memory_of(pack: Sequence[Run], reading: Reading, on_cuda: bool) -> Memory | None:
    """None where an architecture does not say what a step takes, or the LM could not be laid out."""
    if reading.forward is None:
        return None
    forward = reading.forward
    weights: list[int] = []
    states: list[int] = []
    steps: list[int] = []
    for config in (run.config for run in pack):
        d_in = forward.d_in[config.lm.hook_name]
        step = _step_bytes(config, d_in, on_cuda)
        if step is None:
            return None
        shards = config.trainer.shards
        weights.append(sae_bytes(config, d_in) // shards)
        states.append(state_bytes(config.optim.name, d_in, config.sae.d_sae) // shards)
        steps.append(max(step, step_bytes(config.optim.name, d_in, config.sae.d_sae) // shards))
    first = pack[0].config
    device = device_of_saes(first)
    ahead = runs_ahead(first.data.ahead, first.lm, device)
    window = reading.window_bytes(_FLOAT) // first.trainer.ranks
    parts = {
        _LM: forward.weights,
        _FORWARD: forward.peak,
        _WINDOW: window * (2 if ahead and reading.plan.windows > 1 else 1),
        _SAES: sum(weights) + sum(states),
        _GRADIENTS: max(weights),
        _STEP: max(steps),
    }
    return Memory(parts, share_beside(first.lm, device), ahead)


def sae_bytes(config: RunConfig, d_in: int) -> int:
    """Of an SAE's weights and biases."""
    return _FLOAT * (2 * d_in * config.sae.d_sae + config.sae.d_sae + d_in)


def _step_bytes(config: RunConfig, d_in: int, on_cuda: bool) -> int | None:
    cost = config.sae.step_cost(on_cuda)
    if cost is None:
        return None
    rows = config.data.batch_size // config.trainer.ranks  # with all latents; or all rows, with a share of these
    numbers = rows * (cost.latents * config.sae.d_sae + cost.activations * config.trainer.shards * d_in)
    return _FLOAT * (numbers + cost.square**2)
