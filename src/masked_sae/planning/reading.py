"""What a job reads of its LM: the forwards, and how its text falls into them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from masked_sae.activations.lm_shape import Forward, UnknownCost, forward_of
from masked_sae.activations.plan import Plan
from masked_sae.masks.run_masks import kept_share, make_masks
from masked_sae.runs.run import Run
from masked_sae.text.tokenizer import load_tokenizer, special_tokens


@dataclass(frozen=True)
class Reading:
    """Attributes:
    plan: how the longest member's text falls into windows and batches.
    forward: one of as many sequences as are in the LM at one time; None where `unknown` says why.
    forwards: how many of these it takes.
    points: hook points.
    targets: whether windows hold clean targets, too.
    """

    plan: Plan
    forward: Forward | None
    unknown: str
    forwards: float
    points: tuple[str, ...]
    targets: bool

    @property
    def flops(self) -> float | None:
        return None if self.forward is None else self.forwards * self.forward.flops

    def window_bytes(self, width: int) -> int:
        """Of all windows that are in memory at one time, by the bytes of a number."""
        assert self.forward is not None
        return width * self.plan.window_tokens * sum(self.forward.d_in.values()) * (2 if self.targets else 1)


def reading_of(pack: Sequence[Run]) -> Reading:
    """Of runs that share their forwards.

    Raises:
        InputError: there is no such LM, or no such hook point.
    """
    longest = max((run.config for run in pack), key=lambda config: config.data.train_tokens)
    lm, data = longest.lm, longest.data
    tokenizer = load_tokenizer(lm.name, lm.revision)
    special = special_tokens(tokenizer)
    content = data.context_length - len(special.prefix) - len(special.suffix)
    masks = make_masks(longest.mask, tokenizer, longest.seed, longest.data_seed).on_text
    share = kept_share(longest.mask)
    plan = Plan.make(data.batch_size, data.window_tokens, data.train_tokens, max(1, content), share)
    points = tuple(dict.fromkeys(run.config.lm.hook_name for run in pack))
    forward, unknown = None, ""
    try:
        forward = forward_of(lm, points, lm.at_once(lm.batch_size), data.context_length)
    except UnknownCost as why:
        unknown = str(why)
    # A window ends with the forward that fills it; those that set aside spare sequences do not count.
    pieces = lm.batch_size / lm.at_once(lm.batch_size)
    a_window = pieces * math.ceil(plan.window_tokens / (max(1, content) * share) / lm.batch_size)
    for_scale = math.ceil(data.scale_tokens / max(1, content)) / lm.at_once(lm.batch_size)
    targets = masks.wants_clean_target
    forwards = plan.windows * a_window * (2 if targets else 1) + for_scale
    return Reading(plan, forward, unknown, forwards, points, targets)
