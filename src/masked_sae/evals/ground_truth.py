"""What an SAE finds of the features that are truly in a synthetic LM's activations.

Axes: B activations, D `d_in`, F `d_sae`, G true features, P parents, C children of a parent, X context features.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from masked_sae.activations.held_out import activation_batches, sequences_drawn, shortage
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.activations.synthetic_truth import Truth, has_truth, load_truth
from masked_sae.evals.context import EvalContext, EvaluatedSAE
from masked_sae.evals.family import Family, Measured, Wording, l0_wording
from masked_sae.randomness import numpy_generator


@dataclass(frozen=True)
class GroundTruthMetrics:
    """Means over parents leave out those for which there was nothing to count; theirs is NaN in the arrays.

    Attributes:
        mean_max_cosine: mean over the features of the largest cosine of a decoder row with the feature's direction.
        recovered: share of features whose matched latent has a cosine above the threshold. Latents and features are
            matched one to one, such that the sum of cosines is largest.
        l0: mean number of active latents.
        tokens: activations measured.
        cosine_P: of each parent's matched latent with the parent.
        absorption_P: of the activations with parent and child, the share where the parent's latent is silent and a
            child's latent carries the parent: it fires, and its cosines with the parent and with a child that is
            active there are above the threshold.
        recall_with_child_P: of the same activations, the share where the parent's latent fires. What neither share
            counts was missed.
        recall_alone_P: of the activations with the parent and none of its children, the share where its latent fires.
        false_firing_P: of the activations where the parent's latent fires, the share without any of the parent.
        absorption_X: as `absorption_P`, of the context features: general ones that the context brings, while the token
            brings the special ones, the parent that the context tells of and its children.
    """

    mean_max_cosine: float
    recovered: float
    l0: float
    tokens: int
    cosine_P: Tensor
    absorption_P: Tensor
    recall_with_child_P: Tensor
    recall_alone_P: Tensor
    false_firing_P: Tensor
    absorption_X: Tensor

    def metrics(self) -> dict[str, float]:
        """Numbers for a table; one that could not be measured is left out."""
        values = {
            "mean_max_cosine": self.mean_max_cosine,
            "recovered": self.recovered,
            "absorption_rate": self.absorption_P.nanmean().item(),
            "context_absorption_rate": self.absorption_X.nanmean().item(),
            "parent_recall_with_child": self.recall_with_child_P.nanmean().item(),
            "parent_recall_alone": self.recall_alone_P.nanmean().item(),
            "false_firing": self.false_firing_P.nanmean().item(),
            "l0": self.l0,
        }
        return {key: value for key, value in values.items() if not math.isnan(value)}


@torch.inference_mode()
def ground_truth_metrics(
    W_dec_FD: Tensor,
    f_BF: Tensor,
    coefficients_BG: Tensor,
    truth: Truth,
    *,
    active_above: float = 0.3,
    recovered_above: float = 0.9,
    carried_above: float = 0.3,
) -> GroundTruthMetrics:
    """Compares the latents of some activations with the features that are truly in them.

    Only features that occur in these activations count, and only latents that fire on one of them are matched: a
    direction that is never used finds nothing.

    Args:
        W_dec_FD: decoder rows, of any norm.
        f_BF: latents, or just whether they fire (bool).
        coefficients_BG: the true coefficients, from `Truth.true_features`.
        active_above: the coefficient above which a feature counts as active. A token's own are about 1; what the
            context adds may be arbitrarily small.
        recovered_above: the cosine above which a latent counts as having found its feature.
        carried_above: the cosine above which a latent carries a feature. At 0.3 a latent for a child gives back about
            a third of a parent of equal strength; directions of parents are orthogonal to all others.
    """
    fires_BF = F.pad(f_BF > 0, (0, 1))  # a last latent that never fires stands for "none"
    active_BG = coefficients_BG > active_above
    occurs_G = (coefficients_BG > 0).any(0)
    rows_FD = F.pad(F.normalize(W_dec_FD.float(), dim=1), (0, 0, 0, 1))
    cosine_FG = (rows_FD @ truth.directions_GD.T).masked_fill_(~fires_BF.any(0)[:, None], 0.0)
    latent_G = _match(cosine_FG, occurs_G)
    matched_G = cosine_FG.gather(0, latent_G[None, :])[0]
    found = _Found(fires_BF, active_BG, cosine_FG, latent_G, carried_above)
    per_parent: list[tuple[Tensor, ...]] = []
    for parent in range(truth.parents):
        absorbed_B, with_child_B = found.absorbed(parent, truth.children_of(parent))
        main_B, active_B = fires_BF[:, latent_G[parent]], active_BG[:, parent]
        per_parent.append(
            (
                _share(absorbed_B, with_child_B),
                _share(main_B, with_child_B),
                _share(main_B, active_B & ~with_child_B),
                _share(coefficients_BG[:, parent] == 0, main_B),
            )
        )
    of_context = [
        _share(*found.absorbed(g, [feature.parent, *truth.children_of(feature.parent)]))
        for g, feature in enumerate(truth.features)
        if feature.kind == "context" and feature.parent is not None
    ]
    absorption_P, recall_with_child_P, recall_alone_P, false_firing_P = map(torch.stack, zip(*per_parent, strict=True))
    return GroundTruthMetrics(
        mean_max_cosine=cosine_FG.amax(0)[occurs_G].mean().item(),
        recovered=(matched_G > recovered_above)[occurs_G].float().mean().item(),
        l0=fires_BF.sum(1).float().mean().item(),
        tokens=len(f_BF),
        cosine_P=matched_G[: truth.parents].cpu(),
        absorption_P=absorption_P.cpu(),
        recall_with_child_P=recall_with_child_P.cpu(),
        recall_alone_P=recall_alone_P.cpu(),
        false_firing_P=false_firing_P.cpu(),
        absorption_X=torch.stack(of_context).cpu() if of_context else torch.empty(0),
    )


class _Found(NamedTuple):
    """What fires and what is there: see `ground_truth_metrics`."""

    fires_BF: Tensor
    active_BG: Tensor
    cosine_FG: Tensor
    latent_G: Tensor
    carried_above: float

    def absorbed(self, general: int, special: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Where a latent of a special feature that is there carries the general one, whose own is silent; and where
        both features are there. Both (B,), bool.
        """
        both_BC = self.active_BG[:, special] & self.active_BG[:, general, None]
        carries_FC = self.cosine_FG[:, special] > self.carried_above
        carries_FC &= self.cosine_FG[:, general, None] > self.carried_above
        some = carries_FC.any(1)
        carried_BC = self.fires_BF[:, some].float() @ carries_FC[some].float() > 0
        silent_B = ~self.fires_BF[:, self.latent_G[general]]
        return silent_B & (carried_BC & both_BC).any(1), both_BC.any(1)


def _match(cosine_FG: Tensor, occurs_G: Tensor) -> Tensor:
    """(G,) the latent of each feature, no latent twice; the last one, "none", where a feature does not occur, or where
    there are not enough latents whose cosine is positive.
    """
    none = len(cosine_FG) - 1
    latent_G = torch.full((cosine_FG.shape[1],), none)
    occurring_O = occurs_G.nonzero()[:, 0].cpu()
    candidates_FO = cosine_FG[:none, occurs_G].clamp_min(0.0).cpu()
    with_none = F.pad(candidates_FO, (0, 0, 0, len(occurring_O))).double().numpy()
    latents, columns = linear_sum_assignment(with_none, maximize=True)
    latents[with_none[latents, columns] == 0] = none
    latent_G[occurring_O[torch.from_numpy(columns)]] = torch.from_numpy(latents)
    return latent_G.to(cosine_FG.device)


def _share(counted_B: Tensor, of_B: Tensor) -> Tensor:
    """NaN where there is nothing to count."""
    return (counted_B & of_B).sum() / of_B.sum()


class TrueBatch(NamedTuple):
    """Activations as the LM gives them, and the true coefficients behind them."""

    x_BD: Tensor
    coefficients_BG: Tensor


def true_batches(
    lm: LM, held_out: Sequences, truth: Truth, *, tokens: int, seed: int, batch_size: int = 64
) -> Iterator[TrueBatch]:
    """About `tokens` activations of held-out text, sequences drawn by the seed.

    Args:
        held_out: sequences.
        batch_size: sequences per forward.
    """
    indices = sequences_drawn(held_out, tokens, numpy_generator(seed, "ground truth sequences"))
    for _, tokens_NT, kept_NT, x_BD in activation_batches(lm, held_out, indices, batch_size):
        yield TrueBatch(x_BD, truth.true_features(tokens_NT)[kept_NT].to(x_BD.device))


@torch.inference_mode()
def evaluate_ground_truth(
    encode: Callable[[Tensor], Tensor], W_dec_FD: Tensor, batches: Iterable[TrueBatch], truth: Truth
) -> GroundTruthMetrics:
    """Compares an SAE's latents with the features that are truly in what `true_batches` gives.

    Args:
        encode: the LM's own activations (B, D) to latents (B, F): a scale of training belongs in here.
    """
    fires: list[Tensor] = []
    coefficients: list[Tensor] = []
    for x_BD, coefficients_BG in batches:
        fires.append(encode(x_BD) > 0)
        coefficients.append(coefficients_BG)
    return ground_truth_metrics(W_dec_FD, torch.cat(fires), torch.cat(coefficients), truth.to(W_dec_FD.device))


def measure(evaluated: EvaluatedSAE, context: EvalContext) -> Measured:
    """Nothing where the LM is none whose features are known."""
    return together([evaluated], context)[0]


def together(several: Sequence[EvaluatedSAE], context: EvalContext) -> list[Measured]:
    """As `measure`. Of several SAEs the activations are kept, so that one SAE's latents at a time are in memory."""
    if not has_truth(context.lm_folder):
        return [Measured({}) for _ in several]
    truth, settings = context.once(("truth",), lambda: load_truth(context.lm_folder)), context.settings
    batches = true_batches(
        context.lm,
        context.held_out,
        truth,
        tokens=settings.tokens,
        seed=settings.seed,
        batch_size=settings.batch_size,
    )
    kept = batches if len(several) == 1 else list(batches)
    found = [evaluate_ground_truth(one.sae.encode, one.sae.W_dec_FD, kept, truth) for one in several]
    return [Measured(one.metrics(), shortage(one.tokens, settings.tokens)) for one in found]


FAMILY = Family(
    "ground_truth",
    ("seed", "tokens"),
    measure,
    (
        Wording(
            "absorption_rate",
            "Absorption rate (ground truth)",
            "share",
            "parent active in truth, its latent silent, a child's latent carrying its direction",
            "lower",
            headline=True,
        ),
        Wording(
            "context_absorption_rate",
            "Absorption rate of context features (ground truth)",
            "share",
            "the context's feature active in truth, its latent silent, a latent of what the token brings carrying it",
            "lower",
            headline=True,
        ),
        Wording(
            "mean_max_cosine",
            "Mean max cosine (ground truth)",
            "cosine",
            "of true features with the latents matched to them",
            "higher",
            headline=True,
        ),
        Wording("recovered", "Features recovered (ground truth)", "share", "of the true features", "higher"),
        Wording(
            "parent_recall_with_child",
            "Parent recall beside a child (ground truth)",
            "share",
            "parent and child active in truth: the parent's latent fires",
            "higher",
        ),
        Wording(
            "parent_recall_alone",
            "Parent recall alone (ground truth)",
            "share",
            "parent active in truth without a child: its latent fires",
            "higher",
        ),
        Wording("false_firing", "False firing (ground truth)", "share", "latent active, feature not", "lower"),
        l0_wording("ground truth"),
    ),
    l0="ground_truth/l0",
    place=6,
    together=together,
)
