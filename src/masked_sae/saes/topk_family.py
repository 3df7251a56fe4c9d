"""What the SAEs share whose sparsity is set, by `k`: training loss, auxiliary loss.

Axes: B activations, D `d_in`, F `d_sae`, G groups of latents (1 but in Matryoshka), R rows, N numbers in a row.

A training step comes in two versions with the same results to round-off. The plain one, `_reference_step`, is dense
products and autograd: the reference, and all that has to be read to know what a step computes. The sparse one, the
default, computes only with the active latents; see `fast_topk.py` and `sparse_step.py`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from masked_sae import checks
from masked_sae.errors import InputError
from masked_sae.ranks import Ranks
from masked_sae.saes.largest_of_all import largest_of_all
from masked_sae.saes.orthogonality import CHUNK, orthogonality_loss
from masked_sae.saes.sae import SAE, Draws, HideLatents, TrainingOutput, mean_square
from masked_sae.saes.settings import SAESettings
from masked_sae.saes.sparse_step import Active, sparse_loss
from masked_sae.saes.step_cost import DENSE_PRODUCTS, SPARSE_SUMS, StepCost
from masked_sae.settings import neutral, setting


@dataclass(kw_only=True)
class TopKFamilySettings(SAESettings):
    """Attributes:
    k: active latents for each activation: exactly (TopK), or on average over the batch.
    aux_k: dead latents that the auxiliary loss uses; 0 for none.
    orthogonality: weight of the penalty on decoder rows that point the same way; 0 for none.
    orthogonality_chunk: latents among which each has its closest looked for; they are drawn anew for each step.
    """

    k: int = setting(unit="latents per token", sparsity=True)
    aux_k: int = setting(unit="latents")
    aux_coefficient: float
    orthogonality: float = neutral(0.0, label="orthogonality", cure=True)
    orthogonality_chunk: int = neutral(CHUNK, label="orthogonality chunk", unit="latents", cure=True)

    @property
    def target_l0(self) -> float:
        return self.k

    @property
    def prefixes(self) -> int:
        """Of the latents, that the loss counts."""
        return 1

    def step_cost(self, on_cuda: bool) -> StepCost:
        square = 0 if self.orthogonality == 0 else min(self.orthogonality_chunk, self.d_sae)
        if self.reference:
            return StepCost(DENSE_PRODUCTS, 0, 0, latents=8, activations=4 + 2 * self.prefixes, square=square)
        active = self.k + self.aux_k  # the latter once there are dead latents
        return StepCost(1, SPARSE_SUMS, active, latents=1, activations=5 + self.prefixes, square=square)

    def check(self) -> None:
        super().check()
        if not 1 <= self.k <= self.d_sae:
            raise InputError("sae.k", self.k, f"1 to sae.d_sae={self.d_sae}")
        if not 0 <= self.aux_k <= self.d_sae:
            raise InputError("sae.aux_k", self.aux_k, f"0 to sae.d_sae={self.d_sae}")
        checks.coefficient("sae.aux_coefficient", self.aux_coefficient)
        checks.coefficient("sae.orthogonality", self.orthogonality)
        checks.count("sae.orthogonality_chunk", self.orthogonality_chunk, least=2)

    def check_shards(self) -> None:
        if self.orthogonality > 0:
            raise InputError("sae.orthogonality", self.orthogonality, "0 with trainer.shard_latents=true")
        if self.reference:
            raise InputError("sae.reference", self.reference, "false with trainer.shard_latents=true")

    def shared(self, generator: torch.Generator) -> dict[str, Any]:
        names = ("aux_k", "aux_coefficient", "orthogonality", "orthogonality_chunk")
        return super().shared(generator) | {name: getattr(self, name) for name in names}


class TopKFamilySAE(SAE):
    """`f = select(relu((x - b_dec) W_enc + b_enc))`: of the positive latents, the largest.

    Args:
        k: active latents for one activation (TopK), or on average (the others).
        groups: sizes of the groups of latents, which sum to `d_sae`; the loss is the mean over the nested prefixes of
            the groups. By default one group.
        group_weights: of the prefixes' losses; the loss is their weighted mean. By default they are equal.
        aux_k: dead latents that the auxiliary loss uses; 0 for none.
        aux_coefficient: weight of the auxiliary loss.
        orthogonality: weight of `orthogonality_loss`.
        orthogonality_chunk: latents among which it looks for each one's closest.
        others: as for `SAE`.
    """

    group_ends_G: Tensor
    group_weights_G: Tensor | None

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        *,
        groups: Sequence[int] | None = None,
        group_weights: Sequence[float] | None = None,
        aux_k: int = 0,
        aux_coefficient: float = 1 / 32,
        orthogonality: float = 0.0,
        orthogonality_chunk: int = CHUNK,
        **others: Any,
    ) -> None:
        super().__init__(d_in, d_sae, **others)
        if not 1 <= k <= d_sae:
            raise ValueError(f"k={k}: expected 1 to d_sae={d_sae}")
        self.groups = (d_sae,) if groups is None else tuple(groups)
        if sum(self.groups) != d_sae or min(self.groups) < 1:
            raise ValueError(f"groups={list(self.groups)}: expected sizes of at least 1 that sum to d_sae={d_sae}")
        self.k, self.aux_k, self.aux_coefficient = k, aux_k, aux_coefficient
        self.orthogonality, self.orthogonality_chunk = orthogonality, orthogonality_chunk
        self._chunk_order_F: Tensor | None = None
        self.register_buffer("group_ends_G", torch.tensor(self.groups).cumsum(0), persistent=False)
        weights_G = None if group_weights is None else _of_mean_1(group_weights, len(self.groups))
        self.register_buffer("group_weights_G", weights_G, persistent=False)

    def set_thresholds(self, threshold_F: Tensor | None) -> None:
        """Ranks decide in training; one threshold for all is learned anew from them, where the architecture has one."""
        if threshold_F is not None and not torch.allclose(threshold_F, threshold_F[:1]):
            raise ValueError("the k largest latents, or one threshold for all")

    def divide_latents(self, shards: Ranks) -> None:
        super().divide_latents(shards)
        self.group_ends_G = self.group_ends_G - self.first_latent  # counted from this rank's first

    @abstractmethod
    def competitors(self, pre_BF: Tensor) -> tuple[Tensor, int]:
        """The latents (B, F) as rows within which they compete, and how many of each row may be active."""

    def keep(self, pre_BF: Tensor) -> Tensor:
        """The chosen latents, (B, F), by the plain version."""
        return keep_largest(*self.competitors(pre_BF)).view_as(pre_BF)

    def choose(self, pre_BF: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the fast one, as `fast_topk.largest` gives them."""
        return largest_of_all(*self.competitors(pre_BF), self.shards, static=self.has_static_shapes)

    def learn_from(self, values: Tensor) -> None:
        """Sees the active latents of each training batch; those at 0 are none."""

    def begin_step(self, step: int, steps: int, draws: Draws) -> None:
        if self.orthogonality > 0 and self.orthogonality_chunk < self.d_sae:
            self._chunk_order_F = torch.randperm(self.d_sae, generator=draws(), device=self.W_dec_FD.device)

    def select(self, pre_BF: Tensor) -> Tensor:
        """Latents in training: pre-activations (B, F), the chosen ones kept where positive, all others 0."""
        f_BF = self.keep(pre_BF)
        if self.training:
            self.learn_from(f_BF.detach())
        return f_BF

    def _step(
        self, x_BD: Tensor, target_BD: Tensor, hide_latents: HideLatents, penalty_share: float | Tensor
    ) -> TrainingOutput:
        """`loss = reconstruction_loss + aux_coefficient * auxiliary_loss + orthogonality * orthogonality_loss`."""
        step = self._reference_step if self.reference else self._sparse_step
        output = step(x_BD, target_BD, hide_latents)
        if self.orthogonality == 0:
            return output
        alike = orthogonality_loss(self.W_dec_FD, self.orthogonality_chunk, self._chunk_order_F)
        return replace(output, loss=output.loss + self.orthogonality * alike)

    def _reference_step(self, x_BD: Tensor, target_BD: Tensor, hide_latents: HideLatents) -> TrainingOutput:
        pre_BF = hide_latents(self.pre_activations(x_BD))
        f_BF = self.select(pre_BF)
        dead_F = self._count_silence((f_BF > 0).any(0), len(x_BD))
        x_hat_BD = self.b_dec_D.expand_as(target_BD)
        losses: list[Tensor] = []
        for f_BG, W_dec_GD in zip(f_BF.split(self.groups, dim=1), self.W_dec_FD.split(self.groups), strict=True):
            x_hat_BD = x_hat_BD + f_BG @ W_dec_GD
            losses.append(mean_square(target_BD - x_hat_BD))
        residual_BD = (target_BD - x_hat_BD).detach()
        auxiliary_loss = residual_BD.new_zeros(())
        if self._revives(dead_F.any()):
            dead_BF = keep_largest(pre_BF.masked_fill(~dead_F, -torch.inf), min(self.aux_k, self.d_sae))
            auxiliary_loss = mean_square(residual_BD - dead_BF @ self.W_dec_FD) * dead_F.any()
        losses_G = torch.stack(losses)
        reconstruction_loss = (losses_G if self.group_weights_G is None else self.group_weights_G * losses_G).mean()
        loss = reconstruction_loss + self.aux_coefficient * auxiliary_loss
        return TrainingOutput.of(
            loss,
            reconstruction_loss=reconstruction_loss,
            auxiliary_loss=auxiliary_loss,
            residual_BD=residual_BD,
            target_BD=target_BD,
            active_latents=(f_BF > 0).sum(),
            dead_F=dead_F,
        )

    def _sparse_step(self, x_BD: Tensor, target_BD: Tensor, hide_latents: HideLatents) -> TrainingOutput:
        batch, static = len(x_BD), self.has_static_shapes
        with torch.no_grad():
            pre_BF = hide_latents(self.pre_activations(x_BD))
            latents = pre_BF.shape[1]
            active = Active.of(*self.choose(pre_BF), batch, self.group_ends_G, latents)
            if self.training:
                self.learn_from(active.values_A)
            dead_F = self._count_silence(active.fired(), batch)
            any_dead = self.shards.any(dead_F.any())
            revived = None
            if self._revives(any_dead):
                dead_BF = pre_BF.masked_fill_(~dead_F, -torch.inf)
                strongest = largest_of_all(dead_BF, min(self.aux_k, self.d_sae), self.shards, static=static)
                revived = Active.of(*strongest, batch, self.group_ends_G[-1:], latents)
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
            aux_coefficient=self.aux_coefficient * any_dead,
            weights_G=self.group_weights_G,
            shards=self.shards,
        )
        return TrainingOutput.of(
            loss,
            reconstruction_loss=reconstruction_loss,
            auxiliary_loss=auxiliary_loss * any_dead,
            residual_BD=residual_BD,
            target_BD=target_BD,
            active_latents=(active.values_A > 0).sum(),
            dead_F=dead_F,
        )

    def _revives(self, any_dead: Tensor) -> bool:
        """Whether the batch gets an auxiliary loss: how well the strongest dead latents explain what the living left.

        Auxiliary-k loss of Gao et al. 2024 (arXiv 2406.04093, section A.2): `||e - e_hat||^2` with
        `e = target - x_hat` (no gradient) and `e_hat` the decoding, without bias, of the dead latents' top `aux_k`.
        With static shapes always: without dead latents it has no gradient.
        """
        return self.aux_k > 0 and (self.has_static_shapes or bool(any_dead))


def _of_mean_1(group_weights: Sequence[float], groups: int) -> Tensor:
    if len(group_weights) != groups or min(group_weights) < 0 or sum(group_weights) <= 0:
        raise ValueError(f"group_weights={list(group_weights)}: expected {groups} of at least 0, not all of them 0")
    weights_G = torch.tensor(group_weights, dtype=torch.float64)
    return (weights_G / weights_G.mean()).float()


def keep_largest(pre_RN: Tensor, k: int) -> Tensor:
    """Each row with all but its `k` largest positive numbers set to 0, (R, N): what remains is active.

    TopK asks it of each activation's pre-activations (Gao et al. 2024, arXiv 2406.04093, equation 2, with a ReLU),
    BatchTopK of the whole batch's, as one row of `B * F` (Bussmann et al. 2024, arXiv 2412.06410, equation 5). Among
    equal numbers those that come first are kept.
    """
    kth_R1 = pre_RN.detach().topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    above_RN, equal_RN = pre_RN > kth_R1, pre_RN == kth_R1
    places_left_R1 = k - above_RN.sum(1, keepdim=True)
    kept_RN = above_RN | (equal_RN & (equal_RN.cumsum(1) <= places_left_R1))
    return torch.where(kept_RN & (pre_RN > 0), pre_RN, 0.0)
