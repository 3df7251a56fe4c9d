"""Steps of small SAEs with masks, auxiliary loss, clipping and Adam: all that a training step has."""

from typing import Any

import torch
from torch import Tensor

from masked_sae.activations.stream import Batch
from masked_sae.masks.input import InputMask
from masked_sae.masks.latent import LatentMask
from masked_sae.masks.run_masks import Masks
from masked_sae.saes import SAE, group_sizes
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.schedule import Schedule
from support.architectures import PENALIZED, TOPK_FAMILY

D_IN, D_SAE, K, BATCH, STEPS = 16, 64, 5, 32, 30
MASKS = Masks({"latent": LatentMask("latent", 0.2, 0), "input": InputMask("input", 0.1, 0)})
NO_MASKS = Masks({})


def make_sae(architecture: str, **options: Any) -> SAE:
    """Few latents are active at first. Some never are, and soon count as dead.

    Args:
        options: of the architecture's class, in place of those here.
    """
    options |= {"generator": torch.Generator().manual_seed(0), "dead_after_tokens": 4 * BATCH}
    if architecture in PENALIZED:
        sae: SAE = PENALIZED[architecture](D_IN, D_SAE, 0.3, **options)
    else:
        if architecture == "matryoshka":
            options = {"groups": group_sizes(D_SAE, [0.25, 0.75]), "group_weights": [0.5, 1.0]} | options
        options = {"aux_k": 4, "orthogonality": 0.1, "orthogonality_chunk": 16} | options
        sae = TOPK_FAMILY[architecture](D_IN, D_SAE, K, **options)
    with torch.no_grad():
        sae.b_enc_F -= 2
        sae.b_enc_F[::8] -= 30
    return sae


def make_training(
    architecture: str,
    masks: Masks = MASKS,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    compiler: str | None = None,
    **options: Any,
) -> SAETraining:
    """In float64, in which round-off chooses no latent."""
    sae = make_sae(architecture, compute_dtype=dtype, **options).to(device, dtype)
    schedule = Schedule(3e-3, warmup_steps=3, decay_fraction=0.2, steps=STEPS)
    return SAETraining(sae, schedule, masks, penalty_warmup_steps=5, gradient_clip=1.0, compiler=compiler)


def make_batch(step: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(step)
    x_BD = torch.randn(BATCH, D_IN, generator=generator).to(device, dtype)
    return Batch(x_BD, x_BD + 0.1, 0.0)


def weights_after(training: SAETraining, device: str = "cpu") -> dict[str, Tensor]:
    """After all its steps, on the CPU."""
    for step in range(STEPS):
        training.learn(make_batch(step, device))
    return {name: tensor.cpu() for name, tensor in training.sae.state_dict().items()}
