"""What all SAEs share: parameters, decoder norm, the count of silent latents, and what a training step tells.

Axes: B activations, D `d_in`, F `d_sae`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masked_sae.ranks import ALONE, Ranks
from masked_sae.saes.fast_topk import static_on
from masked_sae.saes.sharding import read_by_all

HideLatents = Callable[[Tensor], Tensor]
Draws = Callable[[], torch.Generator]
SHAPES = ("auto", "static", "dynamic")


@dataclass(frozen=True)
class TrainingOutput:
    """Losses and statistics of one batch. All but `loss` are detached, and none was copied to the host.

    Attributes:
        loss: scalar to minimise, the weighted sum of the three that follow, and of what regularizes the weights.
        reconstruction_loss: scalar, mean over the batch of `||target - x_hat||^2 / d_in`; in Matryoshka also
            over the prefixes.
        sparsity_loss: scalar, what the architecture penalises, not yet weighted; 0 where sparsity is set by `k`.
        auxiliary_loss: scalar, of the dead latents for the residual, 0 without any (`k`); of the gate (Gated).
        squared_error: scalar, mean over the batch of `||target - x_hat||^2`.
        variance: scalar, mean over the batch of `||target - mean target||^2`.
        l0: scalar, mean number of active latents.
        dead: scalar, number of latents that count as dead.
    """

    loss: Tensor
    reconstruction_loss: Tensor
    sparsity_loss: Tensor
    auxiliary_loss: Tensor
    squared_error: Tensor
    variance: Tensor
    l0: Tensor
    dead: Tensor

    @staticmethod
    def of(
        loss: Tensor,
        *,
        reconstruction_loss: Tensor,
        sparsity_loss: Tensor | None = None,
        auxiliary_loss: Tensor,
        residual_BD: Tensor,
        target_BD: Tensor,
        active_latents: Tensor,
        dead_F: Tensor,
    ) -> "TrainingOutput":
        """From what the batch's reconstructions leave of their targets, and how many latents were active in all."""
        return TrainingOutput(
            loss=loss,
            reconstruction_loss=reconstruction_loss.detach(),
            sparsity_loss=loss.new_zeros(()) if sparsity_loss is None else sparsity_loss.detach(),
            auxiliary_loss=auxiliary_loss.detach(),
            squared_error=residual_BD.square().sum(1).mean(),
            variance=(target_BD - target_BD.mean(0)).square().sum(1).mean(),
            l0=active_latents / len(target_BD),
            dead=dead_F.sum(),
        )


class SAE(nn.Module, ABC):
    """`f = activation((x - b_dec) W_enc + b_enc)`, `x_hat = f W_dec + b_dec`, rows of `W_dec` of unit norm.

    Args:
        d_in: size of an activation.
        d_sae: number of latents.
        dead_after_tokens: a latent is dead after that many activations without firing.
        compute_dtype: of the encoder's product; the rest is in the parameters' dtype.
        reference: train by the plain version, with dense products; the same to round-off.
        shapes: dynamic: a step computes with as many numbers as matter in its batch, which the host has to be told;
            static: with as many in every batch, so that the host never waits for the device; auto: dynamic on a CPU,
            static elsewhere.
        generator: draws the initial weights.

    Attributes:
        ranks: that a batch is divided among while the SAE is trained. A step's losses, and their gradients, are of this
            rank's share, to be averaged over all; what it selects, counts and learns beside is of the whole batch.
        shards: that the latents are divided among instead (`divide_latents`). `F` is then what this rank has of
            `d_sae`; every rank reads the whole batch, and computes the same losses.
    """

    W_enc_FD: nn.Parameter  # a latent's weights side by side, as its gradient makes them
    b_enc_F: nn.Parameter
    W_dec_FD: nn.Parameter
    b_dec_D: nn.Parameter
    silent_for_F: Tensor

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        dead_after_tokens: int = 10_000_000,
        compute_dtype: torch.dtype = torch.float32,
        reference: bool = False,
        shapes: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        self.dead_after_tokens, self.compute_dtype = dead_after_tokens, compute_dtype
        self.reference, self.shapes = reference, shapes
        self.ranks: Ranks = ALONE
        self.shards: Ranks = ALONE
        directions_FD = F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
        self.W_dec_FD = nn.Parameter(directions_FD)
        self.W_enc_FD = nn.Parameter(directions_FD.clone())  # tied at the start only
        self.b_enc_F = nn.Parameter(torch.zeros(d_sae))
        self.b_dec_D = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("silent_for_F", torch.zeros(d_sae, dtype=torch.long))  # activations since it last fired

    @property
    def W_enc_DF(self) -> Tensor:  # noqa: N802
        """The encoder's weights as `x W_enc` takes them, a view."""
        return self.W_enc_FD.T

    @property
    def has_static_shapes(self) -> bool:
        return self.shapes == "static" or (self.shapes == "auto" and static_on(self.b_enc_F.device))

    @property
    def first_latent(self) -> int:
        """Of those that this rank has."""
        return self.shards.share(self.d_sae).start

    def divide_latents(self, shards: Ranks) -> None:
        """From here on this is the part that one of these has: as many latents for each, one after another.

        Of every parameter and buffer by latents the part has to be put in its place by the caller
        (`training/shards.py`), who has the optimizer too.
        """
        self.shards = shards

    @abstractmethod
    def encode(self, x_BD: Tensor) -> Tensor:
        """Latents (B, F), each activation's own: what else is in the batch does not enter."""

    @abstractmethod
    def thresholds(self) -> Tensor | None:
        """Where a latent of `inference_encoder` begins to be active, (F,); None where its rank decides."""

    @property
    def inference_k(self) -> int | None:
        """How many of an activation's latents are active after training; None where thresholds decide."""
        return None

    def inference_encoder(self) -> tuple[Tensor, Tensor]:
        """Weights (F, D) and biases (F,) that give a latent its value where it is active."""
        return self.W_enc_FD, self.b_enc_F

    def set_thresholds(self, threshold_F: Tensor | None) -> None:
        """Has the latents begin to be active where another SAE's do, whose encoder and biases they were given.

        Args:
            threshold_F: where a latent begins to be active, (F,), at 0 or above; None where its rank decides.

        Raises:
            ValueError: the architecture has nothing that says so; the message is what it could say.
        """
        if threshold_F is None or bool((threshold_F > 0).any()):
            raise ValueError("latents that are active where they are positive")

    def begin_step(self, step: int, steps: int, draws: Draws) -> None:
        """Hears where in the training the next step is; of it follows all that changes on the way.

        Args:
            step: from 0.
            steps: of the whole training.
            draws: gives a generator of this step's own, on the device of the parameters.
        """

    def training_output(
        self,
        x_BD: Tensor,
        target_BD: Tensor,
        hide_latents: HideLatents | None = None,
        penalty_share: float | Tensor = 1.0,
    ) -> TrainingOutput:
        """Losses on one batch; counts, for every latent, how long it has been silent.

        Args:
            x_BD: what the encoder reads.
            target_BD: what the decoder has to give back (`x_BD` itself unless inputs are masked). Gets no gradient.
            hide_latents: maps pre-activations to themselves, or to -inf for the latents that training may not use.
            penalty_share: of the sparsity penalty, while it warms up; to architectures with a `k` it is nothing.
        """
        output = self._step(x_BD, target_BD.detach(), hide_latents or _hide_none, penalty_share)
        if self.shards.is_alone:
            return output
        l0, dead = self.shards.sum(torch.stack([output.l0, output.dead.type_as(output.l0)]))
        return replace(output, l0=l0, dead=dead)

    @abstractmethod
    def _step(
        self, x_BD: Tensor, target_BD: Tensor, hide_latents: HideLatents, penalty_share: float | Tensor
    ) -> TrainingOutput:
        """See `training_output`."""

    def decode(self, f_BF: Tensor) -> Tensor:
        """Reconstructions (B, D)."""
        return f_BF @ self.W_dec_FD + self.b_dec_D

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.decode(self.encode(x_BD))

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """`(x - b_dec) W_enc + b_enc`, (B, F), in the parameters' dtype."""
        centred_BD, b_enc_F = x_BD - self.b_dec_D.detach(), self.b_enc_F
        if (
            torch.is_grad_enabled()
        ):  # b_dec learns by a sum over the batch, not by a product with all of it; this adds 0
            b_enc_F = b_enc_F - self.W_enc_FD @ (read_by_all(self.b_dec_D, self.shards) - self.b_dec_D.detach())
        if self.compute_dtype == centred_BD.dtype:
            return torch.addmm(b_enc_F, centred_BD, self.W_enc_DF)
        product_BF = centred_BD.to(self.compute_dtype) @ self.W_enc_DF.to(self.compute_dtype)
        return product_BF.to(centred_BD.dtype).add_(b_enc_F)

    @torch.no_grad()
    def _count_silence(self, fired_F: Tensor, batch: int) -> Tensor:
        """Updates the counts with this batch, which is the rank's share; returns which latents are dead, (F,) bool."""
        self.silent_for_F.add_(batch * self.ranks.count).masked_fill_(self.ranks.any(fired_F), 0)
        return self.silent_for_F > self.dead_after_tokens

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Takes from each decoder row's gradient the part along the row, which normalisation would undo."""
        gradient_FD = self.W_dec_FD.grad
        if gradient_FD is not None:
            along_F = torch.einsum("fd,fd->f", gradient_FD, self.W_dec_FD)
            gradient_FD.addcmul_(along_F[:, None], self.W_dec_FD, value=-1)

    @torch.no_grad()
    def project_parameters(self) -> None:
        """Puts the parameters back where they may be, after an optimizer step: the decoder's rows to unit norm."""
        self.W_dec_FD.div_(self.W_dec_FD.norm(dim=1, keepdim=True).clamp_min(1e-12))


def is_by_latents(name: str) -> bool:
    """Whether a parameter or buffer of this name has one row for each latent: its first axis says so."""
    return "_" in name and name.rpartition("_")[2].startswith("F")


def mean_square(error: Tensor) -> Tensor:
    return error.square().mean()


def _hide_none(pre_BF: Tensor) -> Tensor:
    return pre_BF
