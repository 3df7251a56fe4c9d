"""What processes that train together do before their first step and after their last, all in the same order."""

from collections.abc import Sequence

import torch

from masked_sae.config import TrainerSettings
from masked_sae.ranks import Ranks
from masked_sae.training.member import Member
from masked_sae.training.restoring import share
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.shards import divide, make_whole


def share_out(training: SAETraining, settings: TrainerSettings, ranks: Ranks, device: torch.device) -> None:
    """Every rank gets what the first one has: all of it, or its part of the latents."""
    if settings.shard_latents:
        divide(training, ranks, device)
    else:
        share(training, ranks)


def gather_trained(members: Sequence[Member]) -> None:
    """The first rank gets the SAEs that are to be measured: of members that have come to their last step."""
    for member in members:
        if not (member.has_ended or member.is_training or member.training.sae.shards.is_alone):
            make_whole(member.training)
