"""What all SAEs of the TopK family share: parameters, training loss, auxiliary loss, decoder norm.

Axes: B activations, D `d_in`, F `d_sae`, G groups of latents (1 but in Matryoshka).

A training step comes in two versions with the same results to round-off. The plain one is dense products and autograd:
the reference. The sparse one, the default, computes only with the active latents; see `sparse.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masked_sae.saes.selection import keep_largest, largest
from masked_sae.saes.sparse import Active, sparse_loss

HideLatents = Callable[[Tensor], Tensor]


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
        groups: sizes of the groups of latents, which sum to `d_sae`; the loss is the mean over the nested prefixes of
            the groups. By default one group.
        aux_k: dead latents that the auxiliary loss uses; 0 for none.
        aux_coefficient: weight of the auxiliary loss.
        dead_after_tokens: a latent is dead after that many activations without firing.
        compute_dtype: of the encoder's product; the rest is in the parameters' dtype.
        reference: train by the plain version, with dense products.
        generator: draws the initial weights.
    """

    W_enc_FD: nn.Parameter  # a latent's weights side by side, as its gradient makes them
    b_enc_F: nn.Parameter
    W_dec_FD: nn.Parameter
    b_dec_D: nn.Parameter
    silent_for_F: Tensor
    group_ends_G: Tensor

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        *,
        groups: Sequence[int] | None = None,
        aux_k: int = 0,
        aux_coefficient: float = 1 / 32,
        dead_after_tokens: int = 10_000_000,
        compute_dtype: torch.dtype = torch.float32,
        reference: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= k <= d_sae:
            raise ValueError(f"k={k}: expected 1 to d_sae={d_sae}")
        self.groups = (d_sae,) if groups is None else tuple(groups)
        if sum(self.groups) != d_sae or min(self.groups) < 1:
            raise ValueError(f"groups={list(self.groups)}: expected sizes of at least 1 that sum to d_sae={d_sae}")
        self.d_in, self.d_sae, self.k = d_in, d_sae, k
        self.aux_k, self.aux_coefficient, self.dead_after_tokens = aux_k, aux_coefficient, dead_after_tokens
        self.compute_dtype, self.reference = compute_dtype, reference
        directions_FD = F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
        self.W_dec_FD = nn.Parameter(directions_FD)
        self.W_enc_FD = nn.Parameter(directions_FD.clone())  # tied at the start only
        self.b_enc_F = nn.Parameter(torch.zeros(d_sae))
        self.b_dec_D = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("silent_for_F", torch.zeros(d_sae, dtype=torch.long))  # activations since it last fired
        self.register_buffer("group_ends_G", torch.tensor(self.groups).cumsum(0), persistent=False)

    @property
    def W_enc_DF(self) -> Tensor:  # noqa: N802
        """The encoder's weights as `x W_enc` takes them, a view."""
        return self.W_enc_FD.T

    @abstractmethod
    def competitors(self, pre_BF: Tensor) -> tuple[Tensor, int]:
        """The latents (B, F) as rows within which they compete, and how many of each row may be active."""

    @abstractmethod
    def encode(self, x_BD: Tensor) -> Tensor:
        """Latents (B, F), each activation's own: what else is in the batch does not enter."""

    def learn_from(self, values: Tensor) -> None:
        """Sees the active latents of each training batch; those at 0 are none."""

    def select(self, pre_BF: Tensor) -> Tensor:
        """Latents in training: pre-activations (B, F), the chosen ones kept where positive, all others 0."""
        f_BF = keep_largest(*self.competitors(pre_BF)).view_as(pre_BF)
        if self.training:
            self.learn_from(f_BF.detach())
        return f_BF

    def decode(self, f_BF: Tensor) -> Tensor:
        """Reconstructions (B, D)."""
        return f_BF @ self.W_dec_FD + self.b_dec_D

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.decode(self.encode(x_BD))

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """`(x - b_dec) W_enc + b_enc`, (B, F), in the parameters' dtype."""
        centred_BD = x_BD - self.b_dec_D
        if self.compute_dtype == centred_BD.dtype:
            return torch.addmm(self.b_enc_F, centred_BD, self.W_enc_DF)
        product_BF = centred_BD.to(self.compute_dtype) @ self.W_enc_DF.to(self.compute_dtype)
        return product_BF.to(centred_BD.dtype).add_(self.b_enc_F)

    def training_output(
        self, x_BD: Tensor, target_BD: Tensor, hide_latents: HideLatents | None = None
    ) -> TrainingOutput:
        """Losses on one batch; counts, for every latent, how long it has been silent.

        Args:
            x_BD: what the encoder reads.
            target_BD: what the decoder has to give back (`x_BD` itself unless inputs are masked). Gets no gradient.
            hide_latents: maps pre-activations to themselves, or to -inf for the latents that training may not use.
        """
        step = self._dense_step if self.reference else self._sparse_step
        return step(x_BD, target_BD.detach(), hide_latents or _hide_none)

    def _dense_step(self, x_BD: Tensor, target_BD: Tensor, hide_latents: HideLatents) -> TrainingOutput:
        pre_BF = hide_latents(self.pre_activations(x_BD))
        f_BF = self.select(pre_BF)
        dead_F = self._count_silence((f_BF > 0).any(0), len(x_BD))
        x_hat_BD = self.b_dec_D.expand_as(target_BD)
        losses: list[Tensor] = []
        for f_BG, W_dec_GD in zip(f_BF.split(self.groups, dim=1), self.W_dec_FD.split(self.groups), strict=True):
            x_hat_BD = x_hat_BD + f_BG @ W_dec_GD
            losses.append(_mean_square(target_BD - x_hat_BD))
        residual_BD = (target_BD - x_hat_BD).detach()
        auxiliary_loss = residual_BD.new_zeros(())
        if self._revives(dead_F):
            dead_BF = keep_largest(pre_BF.masked_fill(~dead_F, -torch.inf), min(self.aux_k, self.d_sae))
            auxiliary_loss = _mean_square(residual_BD - dead_BF @ self.W_dec_FD) * dead_F.any()
        reconstruction_loss = torch.stack(losses).mean()
        loss = reconstruction_loss + self.aux_coefficient * auxiliary_loss
        return self._output(loss, reconstruction_loss, auxiliary_loss, residual_BD, target_BD, (f_BF > 0).sum(), dead_F)

    def _sparse_step(self, x_BD: Tensor, target_BD: Tensor, hide_latents: HideLatents) -> TrainingOutput:
        batch = len(x_BD)
        with torch.no_grad():
            pre_BF = hide_latents(self.pre_activations(x_BD))
            active = Active.of(*largest(*self.competitors(pre_BF)), batch, self.group_ends_G, self.d_sae)
            if self.training:
                self.learn_from(active.values_A)
            dead_F = self._count_silence(active.fired(), batch)
            revived = None
            if self._revives(dead_F):
                dead_BF = pre_BF.masked_fill_(~dead_F, -torch.inf)
                strongest = largest(dead_BF, min(self.aux_k, self.d_sae))
                revived = Active.of(*strongest, batch, self.group_ends_G[-1:], self.d_sae)
                del dead_BF
            del pre_BF
        loss, reconstruction_loss, auxiliary_loss, residual_BD = sparse_loss(
            x_BD,
            self.W_enc_FD,
            self.b_enc_F,
            self.W_dec_FD,
            self.b_dec_D,
            target_BD=target_BD,
            active=active,
            revived=revived,
            aux_coefficient=self.aux_coefficient * dead_F.any(),
        )
        l0 = (active.values_A > 0).sum()
        auxiliary_loss = auxiliary_loss * dead_F.any()
        return self._output(loss, reconstruction_loss, auxiliary_loss, residual_BD, target_BD, l0, dead_F)

    def _output(
        self,
        loss: Tensor,
        reconstruction_loss: Tensor,
        auxiliary_loss: Tensor,
        residual_BD: Tensor,
        target_BD: Tensor,
        active_latents: Tensor,
        dead_F: Tensor,
    ) -> TrainingOutput:
        return TrainingOutput(
            loss=loss,
            reconstruction_loss=reconstruction_loss.detach(),
            auxiliary_loss=auxiliary_loss.detach(),
            squared_error=residual_BD.square().sum(1).mean(),
            variance=(target_BD - target_BD.mean(0)).square().sum(1).mean(),
            l0=active_latents / len(target_BD),
            dead=dead_F.sum(),
        )

    def _revives(self, dead_F: Tensor) -> bool:
        """Whether the batch gets an auxiliary loss: how well the strongest dead latents explain what the living left.

        Auxiliary-k loss of Gao et al. 2024 (arXiv 2406.04093, section A.2): `||e - e_hat||^2` with
        `e = target - x_hat` (no gradient) and `e_hat` the decoding, without bias, of the dead latents' top `aux_k`.
        On CUDA always, since to ask is to wait for the device: without dead latents the loss has no gradient.
        """
        return self.aux_k > 0 and (dead_F.is_cuda or bool(dead_F.any()))

    @torch.no_grad()
    def _count_silence(self, fired_F: Tensor, batch: int) -> Tensor:
        """Updates the counts with this batch; returns which latents are dead, (F,) bool."""
        self.silent_for_F.add_(batch).masked_fill_(fired_F, 0)
        return self.silent_for_F > self.dead_after_tokens

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Takes from each decoder row's gradient the part along the row, which normalisation would undo."""
        gradient_FD = self.W_dec_FD.grad
        if gradient_FD is not None:
            along_F = torch.einsum("fd,fd->f", gradient_FD, self.W_dec_FD)
            gradient_FD.addcmul_(along_F[:, None], self.W_dec_FD, value=-1)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Gives the decoder's rows unit norm again, after an optimizer step."""
        self.W_dec_FD.div_(self.W_dec_FD.norm(dim=1, keepdim=True).clamp_min(1e-12))


def _mean_square(error: Tensor) -> Tensor:
    return error.square().mean()


def _hide_none(pre_BF: Tensor) -> Tensor:
    return pre_BF
