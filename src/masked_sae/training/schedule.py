"""The learning rate of every step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `lr`, then constant, then linear decay to 0 over the last `decay_fraction` of the steps."""

    lr: float
    warmup_steps: int
    decay_fraction: float
    steps: int

    def at(self, step: int) -> float:
        decay_steps = self.decay_fraction * self.steps
        decay = min(1.0, (self.steps - step) / decay_steps) if decay_steps >= 1 else 1.0
        return self.lr * min(warmed_up(step, self.warmup_steps), decay)


def warmed_up(step: int, warmup_steps: int) -> float:
    """The share that a linear warm-up has reached at a step."""
    return min(1.0, (step + 1) / max(1, warmup_steps))
