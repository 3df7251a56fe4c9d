"""An SAE trained on activations that are there: no LM, no run folder; the steps, thresholds and export of a run.

Axes: B activations, D `d_in`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from masked_sae import checks
from masked_sae.activations.scale import ActivationStatistics, ActivationSums
from masked_sae.activations.stream import Batch
from masked_sae.api.activations import Activations, Rows, ShuffledRows, open_activations
from masked_sae.api.choices import find_masks, optim_settings, sae_settings
from masked_sae.api.loading import save_sae
from masked_sae.config import OptimSettings
from masked_sae.errors import InputError
from masked_sae.evals.core import ReconstructionMetrics
from masked_sae.evals.on_tensors import measure_reconstruction_of
from masked_sae.masks.mask import MaskSettings
from masked_sae.saes import InferenceSAE, for_inference
from masked_sae.saes.settings import SAESettings
from masked_sae.training.assemble import begin_training, find_device
from masked_sae.training.calibration import ToCalibrate
from masked_sae.training.optimizers import refuse_unusable
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.step_metrics import step_metrics

_SCALE_ROWS = 16_384  # activations from which scale and mean are estimated: `data.scale_tokens`
_CALIBRATES = 4  # every so many held-out activations, one sets the thresholds; the others measure
_MEASURED = 65_536  # held-out activations at most
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class TrainedSAE:
    """Attributes:
    sae: with thresholds calibrated, for activations as they were given.
    curve: one row for each measured step, with the columns of a run's `metrics.csv` that do not tell of text or LM.
    metrics: on held-out activations that set no threshold; None where none were held out.
    """

    sae: InferenceSAE
    curve: pd.DataFrame
    metrics: ReconstructionMetrics | None

    def save(self, folder: str | Path) -> Path:
        """As `masked_sae.save_sae`."""
        return save_sae(self.sae, folder)


def train(
    activations: Activations,
    sae: str | SAESettings,
    *,
    optim: OptimSettings | None = None,
    masks: Mapping[str, float | MaskSettings] | None = None,
    train_tokens: int | None = None,
    batch_size: int = 1024,
    held_out_share: float = 0.05,
    seed: int = 0,
    device: str = "auto",
    log_every_steps: int = 50,
    progress: bool = False,
    model_name: str | None = None,
    hook_name: str | None = None,
) -> TrainedSAE:
    """Trains an SAE on activations of your own. The same arguments and torch threads give the same bits on a CPU.

    Args:
        activations: (P, d_in): a tensor, an array, also a mapped one, or the path of a `.npy` or `.safetensors` file.
            Batches are drawn by the seed; what is mapped is never read whole.
        sae: an architecture, or its settings, of `masked_sae.sae_settings`.
        optim: of `masked_sae.optim_settings`.
        masks: of inputs or latents, by name, with their rate or settings: `{"latent": 0.1}`.
        train_tokens: activations to train on, again and again where there are fewer; None: each once.
        held_out_share: of the activations, the last ones, that nothing is trained on: rows that lie beside one another
            are mostly of one text. A quarter of them calibrates thresholds, the others measure.
        model_name: of the LM that the activations are from, to be saved with the SAE.
        hook_name: where in it.

    Raises:
        InputError: an argument cannot be used.
        NonFiniteError: an activation or the loss is NaN or infinite.
    """
    settings = sae_settings(sae) if isinstance(sae, str) else sae
    optim = optim or optim_settings()
    settings.check()
    optim.check()
    checks.seed("seed", seed)
    checks.count("data.batch_size", batch_size, most=checks.MOST_AT_ONCE)
    checks.count("trainer.log_every_steps", log_every_steps)
    made_masks = find_masks(masks or {}, seed)
    learned, held_out = _split(open_activations(activations), held_out_share)
    steps = (len(learned) if train_tokens is None else train_tokens) // batch_size
    if steps < 1:
        asked = len(learned) if train_tokens is None else train_tokens
        raise InputError("data.train_tokens", asked, f"at least data.batch_size={batch_size}: one step")
    refuse_unusable(optim.name, find_device(device))
    batches = ShuffledRows(learned, batch_size, seed, find_device(device))
    statistics = _statistics(learned, seed)
    training = begin_training(settings, optim, statistics, made_masks, steps=steps, seed=seed, device=batches.device)
    curve = _fit(training, batches, statistics.scale, log_every_steps, progress)
    origin = {"model_name": model_name, "hook_name": hook_name, "masked_sae_scale": statistics.scale}
    made = replace(
        for_inference(training.sae.eval(), statistics.scale),
        metadata={key: value for key, value in origin.items() if value is not None},
    )
    return _finished(made, settings, curve, held_out, batches.device)


def _split(rows: Rows, held_out_share: float) -> tuple[Rows, Rows]:
    """What is trained on, and what is held out."""
    checks.share_below_1("data.validation_share", held_out_share)
    kept = len(rows) - round(held_out_share * len(rows))
    return rows.part(0, kept), rows.part(kept, len(rows))


def _statistics(rows: Rows, seed: int) -> ActivationStatistics:
    """Of the first ones that are trained on."""
    sums, sample = ActivationSums(rows.d_in), ShuffledRows(rows, min(_SCALE_ROWS, len(rows)), seed, torch.device("cpu"))
    sums.add(sample.batch(0))
    return sums.statistics(rows.name)


def _fit(
    training: SAETraining, batches: ShuffledRows, scale: float, log_every_steps: int, progress: bool
) -> list[dict[str, float]]:
    """Trains to the last step; the curve."""
    curve: list[dict[str, float]] = []
    steps = training.schedule.steps
    for index in tqdm(range(steps), disable=not progress, unit="step"):
        x_BD = batches.batch(index) * scale
        training.learn(Batch(x_BD, x_BD, 0.0))
        if training.step % log_every_steps == 0 or training.step == steps:
            training.refuse_non_finite_loss()
            place = {"step": training.step, "tokens": training.step * batches.batch_size}
            measured = step_metrics(training)
            del measured["masked_share"]  # of a text
            curve.append(place | measured)
    return curve


def _finished(
    sae: InferenceSAE, settings: SAESettings, curve: list[dict[str, float]], held_out: Rows, device: torch.device
) -> TrainedSAE:
    """Calibrated and measured."""
    places = np.arange(len(held_out), dtype=np.int64)
    calibrates = places % _CALIBRATES == _CALIBRATES - 1
    if not calibrates.any():
        calibrates[:] = True
    to_calibrate = ToCalibrate(sae.to(device), settings, lambda: curve[-1]["l0"])
    if to_calibrate.wanted and len(held_out) > 0:
        calibrating = _spread(places[calibrates], settings.calibration_tokens)
        sae = to_calibrate.on(_in_order(held_out, calibrating, device))
    measuring = _spread(places if calibrates.all() else places[~calibrates], _MEASURED)
    metrics = measure_reconstruction_of(sae, _in_order(held_out, measuring, device)) if len(held_out) > 0 else None
    return TrainedSAE(sae, pd.DataFrame(curve), metrics)


def _spread(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """That many of them, or all, over the whole of them."""
    return places[np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(np.int64)]


def _in_order(rows: Rows, places: NDArray[np.int64], device: torch.device) -> Iterator[Tensor]:
    for first in range(0, len(places), _ROWS_AT_ONCE):
        yield rows.read(places[first : first + _ROWS_AT_ONCE]).to(device)
