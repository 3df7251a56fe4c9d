"""Where an LM can be read: its hook points with one vector for each token."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from masked_sae.activations.lm import LM

_BLOCK = re.compile(r"(?<=blocks\.)\d+(?=\.)")


@torch.inference_mode()
def hook_points(lm: LM) -> dict[str, int]:
    """The names of all that a forward reaches, in its order, with how many numbers each has for a token."""
    tokens_NT = torch.zeros((2, 11), dtype=torch.long, device=lm.device)  # unequal axes, so that they can be told apart
    found: dict[str, int] = {}

    def look_as(name: str) -> Callable[[Any, Any], Any]:
        def look(value: Any, hook: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() > 2 and value.shape[:2] == tokens_NT.shape:
                found[name] = value.flatten(2).shape[2]
            return value

        return look

    names = list[str](lm.bridge.hook_dict)
    kinds = {_kind(name): name for name in names}  # what is switched off is so in all blocks, and to ask takes long
    off = {kind for kind, name in kinds.items() if _is_switched_off(lm, name)}
    hooks = [(name, look_as(name)) for name in names if _kind(name) not in off]
    lm.bridge.run_with_hooks(tokens_NT, fwd_hooks=hooks, return_type=None)
    return found


def _is_switched_off(lm: LM, name: str) -> bool:
    """Whether it is one that the bridge computes only when asked to, and takes no hook for until then."""

    def leave(value: Any, hook: Any) -> Any:
        return value

    try:
        with lm.bridge.hooks(fwd_hooks=[(name, leave)]):
            return False
    except ValueError:
        return True


def by_kind(points: dict[str, int]) -> list[str]:
    """A line for hook points that blocks have in common: `blocks.{0..11}.hook_resid_post  768`."""
    blocks: dict[tuple[str, int], list[int]] = {}
    for name, width in points.items():
        number = _BLOCK.search(name)
        blocks.setdefault((_kind(name), width), []).extend([int(number[0])] if number else [])
    named = {kind.replace("*", _span(sorted(numbers)), 1): width for (kind, width), numbers in blocks.items()}
    longest = max(map(len, named), default=0)
    return [f"{name:{longest}}  {width}" for name, width in named.items()]


def _kind(name: str) -> str:
    return _BLOCK.sub("*", name)


def _span(numbers: list[int]) -> str:
    """`{0..11}` where none is missing, else `{0,2,4}`."""
    if len(numbers) < 2:
        return "".join(map(str, numbers))
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{{{numbers[0]}..{numbers[-1]}}}" if whole else "{" + ",".join(map(str, numbers)) + "}"
