"""The architectures, for tests that hold something of each: a new one is added here, and nowhere else."""

from typing import Any

import torch

from masked_sae.saes import (
    SAE,
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    MatryoshkaSAE,
    PAnnealedSAE,
    PenalizedSAE,
    ReLUSAE,
    TopKFamilySAE,
    TopKSAE,
    group_sizes,
)

TOPK_FAMILY: dict[str, type[TopKFamilySAE]] = {
    "topk": TopKSAE,
    "batch_topk": BatchTopKSAE,
    "matryoshka": MatryoshkaSAE,
}
PENALIZED: dict[str, type[PenalizedSAE]] = {
    "relu": ReLUSAE,
    "p_anneal": PAnnealedSAE,
    "jumprelu": JumpReLUSAE,
    "gated": GatedSAE,
}
ARCHITECTURES = (*TOPK_FAMILY, *PENALIZED)


def trained(architecture: str) -> SAE:
    """A small SAE of 16 dimensions and 64 latents after a few steps: its latents' thresholds and norms differ."""
    generator = torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"generator": generator}
    if architecture == "matryoshka":
        options["groups"] = group_sizes(64, [0.25, 0.75])
    if architecture == "jumprelu":
        options |= {"threshold_init": 0.3, "bandwidth": 0.5}
    if architecture in PENALIZED:
        sae: SAE = PENALIZED[architecture](16, 64, 0.3, **options)
    else:
        sae = TOPK_FAMILY[architecture](16, 64, 5, **options)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for step in range(20):
        optimizer.zero_grad()
        sae.begin_step(step, 20, lambda: generator)
        x_BD = torch.randn(32, 16, generator=generator) + 1
        sae.training_output(x_BD, x_BD).loss.backward()
        optimizer.step()
        sae.project_parameters()
    return sae.eval()
