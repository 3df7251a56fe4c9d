"""Inference thresholds, set after training so that clean text has the L0 that was asked for, or that training had.

Thresholds learned on masked activations are too low for clean ones: at equal `k`, masked runs would be compared at a
larger L0 than unmasked ones, and most metrics move with L0.

Axes: B activations, F `d_sae`, A active latents.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from masked_sae.activations.held_out import activation_batches, sequences_to_calibrate
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.saes import InferenceSAE
from masked_sae.saes.fast_topk import largest, static_on
from masked_sae.saes.settings import SAESettings

_SPARE = 4  # times `l0`: latents of a batch that are looked at first,
_FEWEST = 4096  # or so many: of a few in all, one batch may have the most


@dataclass(frozen=True)
class ToCalibrate:
    """One SAE.

    Attributes:
        last_l0: of its training, which is the target where the settings name none.
    """

    sae: InferenceSAE
    settings: SAESettings
    last_l0: Callable[[], float]

    @property
    def wanted(self) -> bool:
        """Whether it has thresholds, and they are to be calibrated."""
        return self.settings.calibrate != "none" and self.sae.threshold_F is not None

    def on(self, batches: Iterable[Tensor]) -> InferenceSAE:
        target = self.settings.target_l0
        return raised(self.sae, self.last_l0(), batches) if target is None else calibrated(self.sae, target, batches)


@torch.inference_mode()
def calibrate_all(
    members: Sequence[ToCalibrate], lm: LM, held_out: Sequences, batch_size: int
) -> list[InferenceSAE | Exception]:
    """The SAEs as they are exported: with thresholds for clean text, where they have some and that is asked for.

    SAEs that are calibrated on as many tokens share the LM's forwards; its activations are kept meanwhile.

    Args:
        held_out: sequences.
        batch_size: sequences per forward.

    Returns:
        In the same order; in place of one what was raised for it.
    """
    found: list[InferenceSAE | Exception] = [member.sae for member in members]
    alike: dict[int, list[int]] = {}
    for place, member in enumerate(members):
        if member.wanted:
            alike.setdefault(member.settings.calibration_tokens, []).append(place)
    for tokens, places in alike.items():
        try:
            read = activation_batches(lm, held_out, sequences_to_calibrate(held_out, tokens), batch_size)
            batches = (batch.x_BD for batch in read)
            kept = batches if len(places) == 1 else list(batches)
        except Exception as error:  # noqa: BLE001
            for place in places:
                found[place] = error
            continue
        for place in places:
            try:
                found[place] = members[place].on(kept)
            except Exception as error:  # noqa: BLE001
                found[place] = error
        del read, batches, kept  # before the next ones are
    return found


@torch.inference_mode()
def calibrated(sae: InferenceSAE, l0: float, batches: Iterable[Tensor]) -> InferenceSAE:
    """The SAE with one threshold for all latents, above which lie `l0` latents per activation in these batches.

    Where fewer than `l0` are positive on average, the threshold is 0.

    Args:
        batches: of activations (B, D); a run's are of sequences of `sequences_to_calibrate`, which are not used for the
            core metrics, unless there are fewer than four in all.
    """
    values: list[Tensor] = []
    unseen: list[float] = []  # the largest value that each batch may have kept back
    count = 0
    for x_BD in batches:
        count += len(x_BD)
        looked_at = max(_FEWEST, round(_SPARE * l0 * len(x_BD)))
        values.append(_largest_values(sae.pre_activations(x_BD), looked_at))
        unseen.append(values[-1].amin().item() if len(values[-1]) == looked_at else 0.0)
    threshold = _above_which(torch.cat(values), max(1, round(l0 * count)))
    if threshold < max(unseen):
        raise RuntimeError("one part of the held-out text has more than four times as many active latents as the whole")
    return sae.with_threshold(threshold)


@torch.inference_mode()
def raised(sae: InferenceSAE, l0: float, batches: Iterable[Tensor]) -> InferenceSAE:
    """The SAE with the thresholds of all latents raised by one number, such that at most `l0` are active on average.

    Args: as for `calibrated`.
    """
    assert sae.threshold_F is not None
    threshold_F = sae.threshold_F.clamp_min(0)
    above = replace(sae, b_enc_F=sae.b_enc_F - threshold_F)  # its pre-activations are how far above theirs they are
    by_F = calibrated(above, l0, batches).threshold_F
    assert by_F is not None
    return replace(sae, threshold_F=threshold_F + by_F)


def _largest_values(pre_BF: Tensor, count: int) -> Tensor:
    count = min(count, pre_BF.numel())
    _, values_A = largest(pre_BF.reshape(1, -1), count, static=static_on(pre_BF.device))
    return values_A[values_A > 0]


def _above_which(values_A: Tensor, count: int) -> float:
    """Midway between the `count`-th largest and the next: rounding of either cannot change what is active."""
    if len(values_A) <= count:
        return 0.0
    smallest_in, largest_out = values_A.topk(count + 1).values[-2:].tolist()
    return (smallest_in + largest_out) / 2
