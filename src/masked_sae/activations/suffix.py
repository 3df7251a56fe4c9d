"""One forward of an LM, then its predictions after changes at the hook point without the layers before it.

`TransformerBridge` has no way to begin in the middle. So the blocks before the hook point are given what the last of
them returned in the first forward, and return that at once; what comes before and after them runs as ever. An LM whose
blocks hand on more than that would predict something else: on two sequences of the text it is tried first whether the
logits are, to the bit, those of a whole forward, and where they are not every forward is a whole one.

Axes: N sequences, T positions, D `d_in`, V vocabulary.
"""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from masked_sae.activations.lm import LM

Edit = Callable[[Tensor], Tensor]
_TRIED_ON = 2  # sequences


class CleanPass:
    """What is kept of a forward without changes.

    Attributes:
        x_NTD: activations at the hook point, as `LM.activations` has them.
    """

    def __init__(
        self, lm: LM, tokens_NT: Tensor, x_NTD: Tensor, skipped: Sequence[nn.Module], output: Any = None
    ) -> None:
        self._lm, self._tokens_NT, self._skipped, self._output = lm, tokens_NT, skipped, output
        self.x_NTD = x_NTD

    def logits(self, edit: Edit) -> Tensor:
        """As `LM.logits` has them of the same tokens and edit."""
        with self._lm.turn, _returning(self._skipped, self._output):
            return self._lm.logits(self._tokens_NT, edit)


def clean_pass(lm: LM, tokens_NT: Tensor) -> tuple[CleanPass, Tensor]:
    """One forward to the end: what follows from it, and its logits, float32, (N, T, V)."""
    if lm.resumes is None:
        lm.resumes = _resumes(lm, tokens_NT[:_TRIED_ON])
    return _passed(lm, tokens_NT, _skippable(lm) if lm.resumes else ())


@torch.inference_mode()
def _passed(lm: LM, tokens_NT: Tensor, skipped: Sequence[nn.Module]) -> tuple[CleanPass, Tensor]:
    captured: list[Tensor] = []
    outputs: list[Any] = []

    def capture(value: Tensor, hook: Any) -> Tensor:
        captured.append(lm.given(value).clone())  # a later layer may write where it reads
        return value

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(_copied(output))

    with lm.turn:
        handles = [skipped[-1].register_forward_hook(keep)] if skipped else []
        try:
            hooks = [(lm.hook_name, capture)]
            logits_NTV = lm.bridge.run_with_hooks(tokens_NT.to(lm.device), fwd_hooks=hooks, return_type="logits")
        finally:
            for handle in handles:
                handle.remove()
    return CleanPass(lm, tokens_NT, captured[0], skipped, *outputs), logits_NTV.to(lm.device).float()


def _resumes(lm: LM, tokens_NT: Tensor) -> bool:
    """Whether skipping the blocks before the hook point leaves the logits as they are, with half the activation."""
    skipped = _skippable(lm)
    if not skipped:
        return False

    def half(x_NTD: Tensor) -> Tensor:
        return x_NTD / 2

    try:
        passed, _ = _passed(lm, tokens_NT, skipped)
        return torch.equal(passed.logits(half), lm.logits(tokens_NT, half))
    except Exception:  # noqa: BLE001 - whatever an unusual LM makes of it
        return False


def _skippable(lm: LM) -> list[nn.Module]:
    """The blocks before the hook point; the one that it is in as well, where it is what that block returns."""
    blocks: Any = getattr(lm.bridge, "blocks", None)
    match = re.match(r"blocks\.(\d+)\.", lm.hook_name)
    if match is None or not isinstance(blocks, nn.ModuleList) or int(match[1]) >= len(blocks):
        return []
    layer = int(match[1])
    own = blocks[layer]
    at_its_end = getattr(own, "hook_out", None) is lm.bridge.hook_dict[lm.hook_name]
    return [*blocks[:layer], *([own] if at_its_end else [])]


def _copied(output: Any) -> Any:
    """The residual stream may be written to by what comes next; what else is returned is handed on as it is."""
    return output.clone() if isinstance(output, Tensor) else (output[0].clone(), *output[1:])


@contextmanager
def _returning(blocks: Sequence[nn.Module], output: Any) -> Generator[None]:
    """Has each of these blocks return what the last one returned, through that one's own hook point."""

    def at_once(*args: Any, **kwargs: Any) -> Any:
        return output

    def hooked(*args: Any, **kwargs: Any) -> Any:
        hook_out: Any = blocks[-1].hook_out
        copy = _copied(output)
        return hook_out(copy) if isinstance(copy, Tensor) else (hook_out(copy[0]), *copy[1:])

    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            vars(block)["forward"] = hooked if block is blocks[-1] else at_once
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                vars(block).pop("forward", None)
            else:
                vars(block)["forward"] = forward
