"""Latents that nobody trained, as the page is given them, with a text of any tokens."""

from collections.abc import Mapping

import numpy as np
import torch

from masked_sae.latents.activity import EDGES, Activity
from masked_sae.latents.columns import Latents
from masked_sae.latents.contexts import Contexts
from masked_sae.latents.neighbours import Neighbours
from masked_sae.latents.promoted import Effects


def make_latents(
    latents: int,
    texts: Mapping[int, str],
    *,
    length: int = 4096,
    contexts: int = 8,
    width: int = 32,
    shown: int = 8,
    near: int = 6,
    with_effects: bool = True,
    seed: int = 0,
) -> Latents:
    """Latent 0 is dead. Its sizes are those of a real page's.

    Args:
        texts: of tokens 0, 1, …; the text has them in random order.
        length: tokens of the text.
    """
    generator = torch.Generator().manual_seed(seed)
    alive_F = (torch.arange(latents) > 0).float()
    max_F = (torch.rand(latents, generator=generator) * 20 + 5) * alive_F
    bin_F = torch.bucketize(max_F, EDGES, right=True) - 1
    histogram_FB = torch.zeros(latents, len(EDGES) - 1, dtype=torch.int32)
    for below in range(12):
        histogram_FB[torch.arange(latents), (bin_F - below).clamp_min(0)] = int(50 / (below + 1)) + 1
    histogram_FB[0] = 0
    count_F = histogram_FB.sum(1, dtype=torch.int64)

    def some_contexts() -> Contexts:
        shape = (latents, contexts)
        share_FK = torch.rand(shape, generator=generator).sort(dim=1, descending=True).values * 0.9 + 0.1
        share_FK[:, 0] = 1
        at_FK = torch.randint(0, width, shape, generator=generator)
        quiet = torch.rand((*shape, width), generator=generator) > 0.1
        window_FKW = torch.randint(1, 256, (*shape, width), generator=generator).masked_fill_(quiet, 0)
        window_FKW.scatter_(2, at_FK[..., None], 255)
        value_FK = share_FK * max_F[:, None]
        first_FK = torch.randint(0, length - width, shape, generator=generator)
        return Contexts(value_FK, first_FK, at_FK.byte(), window_FKW.byte(), value_FK)

    def neighbours() -> Neighbours:
        nearness_FM = torch.rand(latents, near, generator=generator).sort(dim=1, descending=True).values
        return Neighbours(torch.randint(0, latents, (latents, near), generator=generator), nearness_FM)

    def tokens() -> tuple[torch.Tensor, torch.Tensor]:
        changes_FM = torch.rand(latents, shown, generator=generator).sort(dim=1, descending=True).values * 8
        return torch.randint(0, len(texts), (latents, shown), generator=generator), changes_FM

    (raised, raise_), (lowered, lower) = tokens(), tokens()
    activity = Activity(
        tokens=100_000,
        count_F=count_F,
        sum_F=max_F.double() * count_F / 2,
        max_F=max_F,
        histogram_FB=histogram_FB,
        top=some_contexts(),
        sample=some_contexts(),
        quantile_FK=torch.linspace(0.95, 0.05, contexts).expand(latents, contexts),
        position_P=torch.zeros(0, dtype=torch.int64),
        latent_P=torch.zeros(0, dtype=torch.int32),
    )
    text_U = np.random.default_rng(seed).integers(0, len(texts), size=length)
    effects = Effects(raised, raise_, lowered, -lower) if with_effects else None
    return Latents(activity, neighbours(), neighbours(), effects, text_U, dict(texts))


FACTS = {
    "run": "made",
    "lm": "none",
    "hook_name": "none",
    "no_effects": "",
    "absorption": "absorption.html",
    "tokens": 100_000,
    "dead": 1,
    "l0": 8.0,
}
