"""How often an LM, or a part of it, runs."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from masked_sae.activations.lm import LM


@contextmanager
def forwards_of(lm: LM) -> Generator[list[torch.Size]]:
    """The shapes of the tokens that the LM reads, one for each forward, whether or not it goes to the end."""
    read: list[torch.Size] = []
    run = lm.bridge.run_with_hooks

    def counted(tokens_NT: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        read.append(tokens_NT.shape)
        return run(tokens_NT, *args, **kwargs)

    vars(lm.bridge)["run_with_hooks"] = counted
    try:
        yield read
    finally:
        del vars(lm.bridge)["run_with_hooks"]


@contextmanager
def calls_of(module: torch.nn.Module) -> Generator[list[None]]:
    """One entry for each time that the module begins its forward."""
    calls: list[None] = []
    handle = module.register_forward_pre_hook(lambda module, args: calls.append(None))
    try:
        yield calls
    finally:
        handle.remove()
