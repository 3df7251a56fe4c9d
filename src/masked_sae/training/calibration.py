"""Inference thresholds, set after training so that clean text has the L0 that was asked for, or that training had.

Thresholds learned on masked activations are too low for clean ones: at equal `k`, masked runs would be compared at a
larger L0 than unmasked ones, and most metrics move with L0.

Axes: B activations, F `d_sae`, A active latents.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.activations.held_out import activation_batches, sequences_to_calibrate
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.saes import InferenceSAE
from masked_sae.saes.fast_topk import largest
from masked_sae.saes.settings import SAESettings

_SPARE = 4  # times `l0`: latents of a batch that are looked at first,
_FEWEST = 4096  # or so many: of a few in all, one batch may have the most


def calibrate(
    sae: InferenceSAE,
    settings: SAESettings,
    last_l0: Callable[[], float],
    lm: LM,
    held_out: Sequences,
    batch_size: int,
) -> InferenceSAE:
    """The SAE as it is exported: with thresholds for clean text, where it has thresholds and that is asked for.

    Args:
        last_l0: of the training, which is the target where the settings name none.
        held_out: sequences.
        batch_size: sequences per forward.
    """
    if settings.calibrate == "none" or sae.threshold_F is None:
        return sae
    indices = sequences_to_calibrate(held_out, settings.calibration_tokens)
    if settings.target_l0 is None:
        return raised(sae, last_l0(), lm, held_out, indices, batch_size)
    return calibrated(sae, settings.target_l0, lm, held_out, indices, batch_size)


@torch.inference_mode()
def calibrated(
    sae: InferenceSAE, l0: float, lm: LM, held_out: Sequences, indices: NDArray[np.int64], batch_size: int
) -> InferenceSAE:
    """The SAE with one threshold for all latents, above which lie `l0` latents per activation on these sequences.

    Where fewer than `l0` are positive on average, the threshold is 0.

    Args:
        indices: of the sequences; those of `sequences_to_calibrate` are not used for the core metrics, unless
            there are fewer than four in all.
        batch_size: sequences per forward.
    """
    values: list[Tensor] = []
    unseen: list[float] = []  # the largest value that each batch may have kept back
    count = 0
    for *_, x_BD in activation_batches(lm, held_out, indices, batch_size):
        count += len(x_BD)
        looked_at = max(_FEWEST, round(_SPARE * l0 * len(x_BD)))
        values.append(_largest_values(sae.pre_activations(x_BD), looked_at))
        unseen.append(values[-1].amin().item() if len(values[-1]) == looked_at else 0.0)
    threshold = _above_which(torch.cat(values), max(1, round(l0 * count)))
    if threshold < max(unseen):
        raise RuntimeError("one part of the held-out text has more than four times as many active latents as the whole")
    return sae.with_threshold(threshold)


@torch.inference_mode()
def raised(
    sae: InferenceSAE, l0: float, lm: LM, held_out: Sequences, indices: NDArray[np.int64], batch_size: int
) -> InferenceSAE:
    """The SAE with the thresholds of all latents raised by one number, such that at most `l0` are active on average.

    Args: as for `calibrated`.
    """
    assert sae.threshold_F is not None
    threshold_F = sae.threshold_F.clamp_min(0)
    above = replace(sae, b_enc_F=sae.b_enc_F - threshold_F)  # its pre-activations are how far above theirs they are
    by_F = calibrated(above, l0, lm, held_out, indices, batch_size).threshold_F
    assert by_F is not None
    return replace(sae, threshold_F=threshold_F + by_F)


def _largest_values(pre_BF: Tensor, count: int) -> Tensor:
    _, values_A = largest(pre_BF.reshape(1, -1), min(count, pre_BF.numel()))
    return values_A[values_A > 0]


def _above_which(values_A: Tensor, count: int) -> float:
    """Midway between the `count`-th largest and the next: rounding of either cannot change what is active."""
    if len(values_A) <= count:
        return 0.0
    smallest_in, largest_out = values_A.topk(count + 1).values[-2:].tolist()
    return (smallest_in + largest_out) / 2


from dataclasses import dataclass


@dataclass(frozen=True)
class ToCalibrate:  # TEMPORARY
    sae: InferenceSAE
    settings: SAESettings
    last_l0: Callable[[], float]


def calibrate_all(members, lm, held_out, batch_size):
    out = []
    for one in members:
        try:
            out.append(calibrate(one.sae, one.settings, one.last_l0, lm, held_out, batch_size))
        except Exception as error:
            out.append(error)
    return out
