"""What is measured of a training step: the only place where a step's numbers are copied to the host."""

import torch
from torch import Tensor

from masked_sae.saes import SAE
from masked_sae.training.sae_training import SAETraining


def step_metrics(training: SAETraining) -> dict[str, float]:
    """Of the latest step, by the names of `runs.curve`."""
    output = training.output
    assert output is not None
    measured = {
        "loss": output.loss.detach(),
        "reconstruction_loss": output.reconstruction_loss,
        "sparsity_loss": output.sparsity_loss,
        "auxiliary_loss": output.auxiliary_loss,
        "explained_variance": 1 - output.squared_error / output.variance,
        "l0": output.l0,
        "dead_latents": output.dead.float() / training.sae.d_sae,
        "threshold": _mean_threshold(training.sae),
    }
    values = dict(zip(measured, torch.stack(list(measured.values())).tolist(), strict=True))
    return values | {"masked_share": training.masked_share, "lr": training.schedule.at(training.step - 1)}


@torch.no_grad()
def _mean_threshold(sae: SAE) -> Tensor:
    """Over the latents; 0 where an SAE has no thresholds."""
    threshold_F = sae.thresholds()
    return sae.b_dec_D.new_zeros(()) if threshold_F is None else threshold_F.mean()
