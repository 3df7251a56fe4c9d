"""What a job's device holds at one time while it trains, beside what an idle process does. Evaluation is not counted.

`training/memory.py` bounds the same by settings alone, to decide what is packed; here the LM has been laid out.

Axes: B activations, D `d_in`, F `d_sae`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from masked_sae.config import RunConfig
from masked_sae.planning.reading import Reading
from masked_sae.runs.run import Run

_FLOAT = 4  # bytes
_KEPT = 3  # of an SAE's size, by each member: its weights and Adam's moments
_LM, _FORWARD, _WINDOW, _SAES, _GRADIENTS, _STEP = "LM", "forward", "windows", "SAEs", "gradients", "step"
_HELP = {  # what makes a part smaller
    _LM: ("lm.dtype",),
    _FORWARD: ("lm.batch_size", "data.context_length"),
    _WINDOW: ("data.window_tokens",),
    _SAES: ("pack", "sae.d_sae"),
    _GRADIENTS: ("sae.d_sae",),
    _STEP: ("data.batch_size", "sae.d_sae"),
}


@dataclass(frozen=True)
class Memory:
    """Attributes:
    parts: bytes, by what they are of. A forward and a step take turns, so the sum is more than there is at one time.
    """

    parts: dict[str, int]

    @property
    def peak(self) -> int:
        kept = self.parts[_LM] + self.parts[_WINDOW] + self.parts[_SAES]
        return kept + max(self.parts[_FORWARD], self.parts[_GRADIENTS] + self.parts[_STEP])

    def help(self, members: int) -> str:
        """The keys that make it smaller, those of the largest part first."""
        steps = self.parts[_GRADIENTS] + self.parts[_STEP]
        apart = (_GRADIENTS, _STEP) if self.parts[_FORWARD] > steps else (_FORWARD,)
        at_peak = sorted((name for name in self.parts if name not in apart), key=lambda name: -self.parts[name])
        keys = [key for name in at_peak[:2] for key in _HELP[name] if key != "pack" or members > 1]
        return ", ".join(dict.fromkeys(keys))


def memory_of(pack: Sequence[Run], reading: Reading, on_cuda: bool) -> Memory | None:
    """None where an architecture does not say what a step takes, or the LM could not be laid out."""
    if reading.forward is None:
        return None
    forward = reading.forward
    weights: list[int] = []
    steps: list[int] = []
    for config in (run.config for run in pack):
        d_in = forward.d_in[config.lm.hook_name]
        step = _step_bytes(config, d_in, on_cuda)
        if step is None:
            return None
        weights.append(sae_bytes(config, d_in) // config.trainer.shards)
        steps.append(step)
    parts = {
        _LM: forward.weights,
        _FORWARD: forward.peak,
        _WINDOW: reading.window_bytes(_FLOAT) // pack[0].config.trainer.ranks,
        _SAES: _KEPT * sum(weights),
        _GRADIENTS: max(weights),
        _STEP: max(steps),
    }
    return Memory(parts)


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
