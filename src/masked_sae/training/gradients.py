"""Gradients of ranks that train together. Where rows are divided they are averaged, of the large ones only the latents'
rows that have any; where latents are divided each rank's are whole, and only their norm is of all.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from masked_sae.ranks import Ranks
from masked_sae.saes import SAE
from masked_sae.saes.sae import is_by_latents

_DENSE_FROM = 0.5  # of the latents with a gradient on some rank: from there on all rows travel


@torch.no_grad()
def average_gradients(sae: SAE, ranks: Ranks) -> None:
    """Puts in place of each parameter's gradient, that of this rank's share of the batch, the whole batch's.

    A latent that was active nowhere has rows of zeros in both matrices' gradients, on each rank. Which these are has to
    be told to the host, so with static shapes all rows travel.
    """
    if ranks.is_alone:
        return
    gradients = [one.grad for one in sae.parameters() if one.grad is not None]
    by_latent = [one for one in gradients if one.shape == sae.W_dec_FD.shape]
    others = [one for one in gradients if one.shape != sae.W_dec_FD.shape]
    _average(others, ranks)
    rows = None if sae.has_static_shapes else _rows_with_any(by_latent, ranks)
    if rows is None:
        for gradient_FD in by_latent:
            gradient_FD.copy_(ranks.mean(gradient_FD))
        return
    parts = [gradient_FD[rows] for gradient_FD in by_latent]
    _average(parts, ranks)
    for gradient_FD, part in zip(by_latent, parts, strict=True):
        gradient_FD[rows] = part


def clip_gradients(sae: SAE, most: float) -> None:
    """To a global norm: of the gradients of all latents, on whatever rank."""
    if sae.shards.is_alone:
        nn.utils.clip_grad_norm_(sae.parameters(), most)
        return
    group = sae.shards.group or dist.group.WORLD
    assert group is not None
    mesh = DeviceMesh.from_group(group, sae.b_dec_D.device.type)
    gradients = {name: one.grad for name, one in sae.named_parameters() if one.grad is not None}
    parts = [
        DTensor.from_local(part, mesh, [Shard(0) if is_by_latents(name) else Replicate()])
        for name, part in gradients.items()
    ]
    norm = nn.utils.get_total_norm(parts)
    nn.utils.clip_grads_with_norm_(sae.parameters(), most, norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _rows_with_any(gradients: list[Tensor], ranks: Ranks) -> Tensor | None:
    """Latents that have a gradient on some rank; None where they are too many for it to pay."""
    any_F = ranks.any(torch.stack([gradient_FD.any(1) for gradient_FD in gradients]).any(0))
    return any_F.nonzero().squeeze(1) if any_F.count_nonzero() < _DENSE_FROM * len(any_F) else None


def _average(tensors: list[Tensor], ranks: Ranks) -> None:
    """In place, by one message."""
    mean = ranks.mean(torch.cat([one.flatten() for one in tensors]))
    for one, part in zip(tensors, mean.split([one.numel() for one in tensors]), strict=True):
        one.copy_(part.view_as(one))
