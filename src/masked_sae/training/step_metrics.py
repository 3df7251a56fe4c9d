"""What is measured of a training step: the only place where a step's numbers are copied to the host."""

import torch

from masked_sae.training.sae_training import SAETraining
from masked_sae.training.shards import mean_threshold


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
        "threshold": mean_threshold(training),
    }
    values = dict(zip(measured, torch.stack(list(measured.values())).tolist(), strict=True))
    return values | {"masked_share": training.masked_share, "lr": training.schedule.at(training.step - 1)}
