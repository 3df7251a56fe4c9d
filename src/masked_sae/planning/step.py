"""What a member's training steps compute.

Axes: B activations, D `d_in`, F `d_sae`, A active latents of the whole batch.

A dense product of (B, D) with (D, F) is `2 B D F` operations. The sparse part is `sums * 2 A D`: each active latent's
row of D numbers is multiplied and added so often, with `A = B * active`, where dead latents that are revived count as
active. Adam, norms, top-k and all else that costs by single numbers is not counted.
"""

from dataclasses import dataclass

from masked_sae.config import RunConfig


@dataclass(frozen=True)
class StepFlops:
    """Attributes:
    sparse: at most; None where training decides how many latents are active.
    """

    dense: int
    sparse: float | None


def step_flops(config: RunConfig, d_in: int, on_cuda: bool) -> StepFlops | None:
    """Of one step; None where the architecture does not say."""
    cost = config.sae.step_cost(on_cuda)
    if cost is None:
        return None
    batch, d_sae = config.data.batch_size, config.sae.d_sae
    dense = 2 * d_in * d_sae * (cost.products * batch + cost.square)
    sparse = None if cost.active is None else cost.sums * 2.0 * cost.active * batch * d_in
    return StepFlops(dense, 0.0 if not cost.sums else sparse)


def steps_of(config: RunConfig) -> int:
    return config.data.train_tokens // config.data.batch_size
