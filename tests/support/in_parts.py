"""Runs of several processes beside those of one: how far apart they are, and what befalls them at a step."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from masked_sae.runs.run import Run
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.train_pack import train_pack


def weights(run: Run | Path) -> dict[str, Tensor]:
    return load_file(run if isinstance(run, Path) else run.sae / "sae_weights.safetensors")


def distance(ours: Run | Path, theirs: Run | Path) -> float:
    """Between weights and thresholds, as a share of theirs."""
    mine, others = weights(ours), weights(theirs)
    apart = sum(float((tensor - others[name]).double().square().sum()) for name, tensor in mine.items())
    return (apart / sum(float(tensor.double().square().sum()) for tensor in others.values())) ** 0.5


def trained(runs: list[Run]) -> None:
    outcomes = train_pack(runs)
    assert [one.error for one in outcomes] == [None] * len(runs)
    assert [one.state.status for one in outcomes if one.state] == ["done"] * len(runs)


@contextmanager
def at_step(step: int, do: Callable[[], object]) -> Generator[None]:
    """Does something once, when the first process is at a step."""
    patch, learn, done = pytest.MonkeyPatch(), SAETraining.learn, list[bool]()

    def doing(self: SAETraining, batch: Any) -> None:
        learn(self, batch)
        if self.step == step and not done:
            done.append(True)
            do()

    patch.setattr(SAETraining, "learn", doing)
    try:
        yield
    finally:
        patch.undo()
