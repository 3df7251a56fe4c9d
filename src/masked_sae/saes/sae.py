"""What all SAEs of the TopK family share: parameters, training loss, auxiliary loss, decoder norm.

Axes: B activations, D `d_in`, F `d_sae`.

This is the plain version: dense products and autograd. It is the reference that faster versions are tested against.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class TrainingOutput:
    """Losses and statistics of one batch. All but `loss` are detached, and none was copied to the host.

    Attributes:
        loss: scalar to minimise, `reconstruction_loss + aux_coefficient * auxiliary_loss`.
        reconstruction_loss: scalar, mean over the batch of `||target - x_hat||^2 / d_in`; in Matryoshka also
            over the prefixes.
        auxiliary_loss: scalar, as above for the residual and the dead latents; 0 without dead latents.
        squared_error: scalar, mean over the batch of `||target - x_hat||^2`.
        variance: scalar, mean over the batch of `||target - mean target||^2`.
        l0: scalar, mean number of active latents.
        dead: scalar, number of latents that count as dead.
    """

    loss: Tensor
    reconstruction_loss: Tensor
    auxiliary_loss: Tensor
    squared_error: Tensor
    variance: Tensor
    l0: Tensor
    dead: Tensor


class SAE(nn.Module, ABC):
    """`f = select(relu((x - b_dec) W_enc + b_enc))`, `x_hat = f W_dec + b_dec`, rows of `W_dec` of unit norm.

    Args:
        d_in: size of an activation.
        d_sae: number of latents.
        k: active latents for one activation (TopK), or on average (the others).
        aux_k: dead latents that the auxiliary loss uses; 0 for none.
        aux_coefficient: weight of the auxiliary loss.
        dead_after_tokens: a latent is dead after that many activations without firing.
        compute_dtype: of the encoder's product; the rest is in the parameters' dtype.
        generator: draws the initial weights.
    """

    W_enc_DF: nn.Parameter
    b_enc_F: nn.Parameter
    W_dec_FD: nn.Parameter
    b_dec_D: nn.Parameter
    silent_for_F: Tensor

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        *,
        aux_k: int = 0,
        aux_coefficient: float = 1 / 32,
        dead_after_tokens: int = 10_000_000,
        compute_dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.d_in, self.d_sae, self.k = d_in, d_sae, k
        self.aux_k, self.aux_coefficient, self.dead_after_tokens = aux_k, aux_coefficient, dead_after_tokens
        self.compute_dtype = compute_dtype
        directions_FD = F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
        self.W_dec_FD = nn.Parameter(directions_FD)
        self.W_enc_DF = nn.Parameter(directions_FD.T.contiguous())  # tied at the start only
        self.b_enc_F = nn.Parameter(torch.zeros(d_sae))
        self.b_dec_D = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("silent_for_F", torch.zeros(d_sae, dtype=torch.long))  # activations since it last fired

    @abstractmethod
    def select(self, pre_BF: Tensor) -> Tensor:
        """Latents in training: pre-activations (B, F), the chosen ones kept where positive, all others 0."""

    @abstractmethod
    def encode(self, x_BD: Tensor) -> Tensor:
        """Latents (B, F), each activation's own: what else is in the batch does not enter."""

    def decode(self, f_BF: Tensor) -> Tensor:
        """Reconstructions (B, D)."""
        return f_BF @ self.W_dec_FD + self.b_dec_D

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.decode(self.encode(x_BD))

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """`(x - b_dec) W_enc + b_enc`, (B, F), in the parameters' dtype."""
        centred_BD = x_BD - self.b_dec_D
        if self.compute_dtype == centred_BD.dtype:
            return centred_BD @ self.W_enc_DF + self.b_enc_F
        product_BF = centred_BD.to(self.compute_dtype) @ self.W_enc_DF.to(self.compute_dtype)
        return product_BF.to(centred_BD.dtype) + self.b_enc_F

    def training_output(
        self, x_BD: Tensor, target_BD: Tensor, hide_latents: Callable[[Tensor], Tensor] | None = None
    ) -> TrainingOutput:
        """Losses on one batch; counts, for every latent, how long it has been silent.

        Args:
            x_BD: what the encoder reads.
            target_BD: what the decoder has to give back (`x_BD` itself unless inputs are masked).
            hide_latents: maps pre-activations to those of the latents that training may use.
        """
        pre_BF = self.pre_activations(x_BD)
        if hide_latents is not None:
            pre_BF = hide_latents(pre_BF)
        f_BF = self.select(pre_BF)
        x_hat_BD, reconstruction_loss = self.reconstruct(f_BF, target_BD)
        dead_F = self._count_silence(f_BF)
        auxiliary_loss = self.auxiliary_loss(pre_BF, (target_BD - x_hat_BD).detach(), dead_F)
        with torch.no_grad():
            squared_error = (target_BD - x_hat_BD).square().sum(1).mean()
            variance = (target_BD - target_BD.mean(0)).square().sum(1).mean()
            l0 = (f_BF > 0).sum(1, dtype=torch.float32).mean()
        return TrainingOutput(
            loss=reconstruction_loss + self.aux_coefficient * auxiliary_loss,
            reconstruction_loss=reconstruction_loss.detach(),
            auxiliary_loss=auxiliary_loss.detach(),
            squared_error=squared_error,
            variance=variance,
            l0=l0,
            dead=dead_F.sum(),
        )

    def reconstruct(self, f_BF: Tensor, target_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction (B, D) by all latents, and the loss to train on."""
        x_hat_BD = self.decode(f_BF)
        return x_hat_BD, self.mean_squared_error(x_hat_BD, target_BD)

    def mean_squared_error(self, x_hat_BD: Tensor, target_BD: Tensor) -> Tensor:
        return (target_BD - x_hat_BD).square().sum(1).mean() / self.d_in

    def auxiliary_loss(self, pre_BF: Tensor, residual_BD: Tensor, dead_F: Tensor) -> Tensor:
        """How well the `aux_k` strongest dead latents explain what the living ones left over.

        Auxiliary-k loss of Gao et al. 2024 (arXiv 2406.04093, section A.2): `||e - e_hat||^2` with
        `e = target - x_hat` (no gradient) and `e_hat` the decoding, without bias, of the dead latents' top `aux_k`.
        """
        if self.aux_k == 0 or not dead_F.any():
            return residual_BD.new_zeros(())
        candidates_BF = F.relu(pre_BF).masked_fill(~dead_F, 0.0)
        values_BK, latents_BK = candidates_BF.topk(self.aux_k, dim=1, sorted=False)
        f_BF = torch.zeros_like(pre_BF).scatter(1, latents_BK, values_BK)
        return self.mean_squared_error(f_BF @ self.W_dec_FD, residual_BD)

    @torch.no_grad()
    def _count_silence(self, f_BF: Tensor) -> Tensor:
        """Updates the counts with this batch; returns which latents are dead, (F,) bool."""
        fired_F = (f_BF > 0).any(0)
        self.silent_for_F.add_(len(f_BF)).masked_fill_(fired_F, 0)
        return self.silent_for_F > self.dead_after_tokens

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Takes from each decoder row's gradient the part along the row, which normalisation would undo."""
        gradient_FD = self.W_dec_FD.grad
        if gradient_FD is not None:
            along_F1 = (gradient_FD * self.W_dec_FD).sum(1, keepdim=True)
            gradient_FD.addcmul_(along_F1, self.W_dec_FD, value=-1)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Gives the decoder's rows unit norm again, after an optimizer step."""
        self.W_dec_FD.div_(self.W_dec_FD.norm(dim=1, keepdim=True).clamp_min(1e-12))
