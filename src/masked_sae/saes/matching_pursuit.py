"""Matching Pursuit SAE (Costa et al. 2025, arXiv 2506.03093), trained elsewhere: latents are found one after another,
each the one whose direction explains most of what the earlier ones left.

Axes: B activations, D `d_in`, F `d_sae`, R those activations that are not done.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from masked_sae.saes.inference import InferenceSAE


@dataclass(frozen=True)
class MatchingPursuitSAE(InferenceSAE):
    """Encoder and decoder are tied: `W_enc` is the decoder's transpose.

    Attributes:
        residual_threshold: an activation is done once the norm of what is left of it is below.
        iterations: at most.
        stops_at_repeats: an activation is done once it finds no latent that it has not found before.
    """

    residual_threshold: float = 0.0
    iterations: int = 0
    stops_at_repeats: bool = True

    def _encode_rows(self, x_BD: Tensor) -> Tensor:
        residual_BD = x_BD - self.b_in_D
        f_BF = x_BD.new_zeros(len(x_BD), self.d_sae)
        undone_R = torch.arange(len(x_BD), device=x_BD.device)
        for _ in range(self.iterations):
            residual_RD = residual_BD[undone_R]
            best_R = (residual_RD @ self.W_enc_DF).clamp_min(0).argmax(1)
            directions_RD = self.W_dec_FD[best_R]
            values_R = (residual_RD * directions_RD).sum(1).clamp_min(0)
            repeats_R = (f_BF[undone_R, best_R] != 0) | (values_R == 0)
            f_BF[undone_R, best_R] += values_R
            residual_RD = residual_RD - values_R[:, None] * directions_RD
            residual_BD[undone_R] = residual_RD
            done_R = repeats_R if self.stops_at_repeats else torch.zeros_like(repeats_R)
            if self.residual_threshold > 0:
                done_R = done_R | (residual_RD.norm(dim=1) < self.residual_threshold)
            undone_R = undone_R[~done_R]
            if not len(undone_R):
                break
        return f_BF
