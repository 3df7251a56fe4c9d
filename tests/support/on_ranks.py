"""What several processes that train together do in tests; each function is called on all of them at once."""

from typing import Any

import torch
from torch import Tensor

from masked_sae.activations.stream import Batch
from masked_sae.ranks import Ranks
from masked_sae.saes.batch_topk import of_all_ranks
from masked_sae.training.restoring import capture, restore, share
from support.stepping import BATCH, STEPS, make_batch, make_training


def every_method(ranks: Ranks) -> dict[str, Any]:
    """What each method gives, of tensors that name their rank."""
    own = torch.tensor([1.0 + ranks.rank, -ranks.rank])
    first = torch.tensor([7, 8]) if ranks.is_first else torch.zeros(2, dtype=torch.long)
    return {
        "sum": ranks.sum(own),
        "mean": ranks.mean(own),
        "least": ranks.least(own),
        "any": ranks.any(torch.arange(4) == ranks.rank),
        "gather": ranks.gather(torch.full((2, 1), ranks.rank)),
        "from_first": ranks.from_first(first),
        "tell": ranks.tell({"rank": ranks.rank, "words": "é" * ranks.rank}),
        "unchanged": own,
    }


def exchange(ranks: Ranks, rows: Tensor, starts: list[int], wanted: list[Tensor]) -> Tensor:
    return ranks.exchange(rows[starts[ranks.rank] : starts[ranks.rank + 1]], wanted, starts)


def largest_of_all(ranks: Ranks, values: Tensor, k: int) -> Tensor:
    """Which of these are kept, where each rank has an equal part in order."""
    own = values.view(ranks.count, -1)[ranks.rank]
    order = own.topk(min(k, len(own))).indices.sort().values
    kept = torch.zeros_like(own, dtype=torch.bool)
    kept[order] = of_all_ranks(own[order].clamp_min(0), k, ranks)
    return kept


def train(ranks: Ranks, architecture: str, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    """So many steps on this rank's rows of each batch: weights, and what the last step told."""
    training = make_training(architecture, **options)
    training.divide_among(ranks)
    for step in range(steps):
        training.learn(_share_of(make_batch(step), ranks))
    return {"weights": training.sae.state_dict(), "output": vars(training.output), "step": training.step}


def begin_elsewhere(ranks: Ranks, architecture: str, done: int) -> dict[str, Any]:
    """The first rank has trained alone; all go on from where it is."""
    training = make_training(architecture)
    if ranks.is_first:
        for step in range(done):
            training.learn(make_batch(step))
        checkpoint = capture(training, {})
        training = make_training(architecture)
        restore(training, checkpoint)
    share(training, ranks)
    training.divide_among(ranks)
    for step in range(done, STEPS):
        training.learn(_share_of(make_batch(step), ranks))
    return {"weights": training.sae.state_dict(), "step": training.step}


def fail_on(ranks: Ranks, rank: int) -> None:
    if ranks.rank == rank:
        raise RuntimeError("out of order")
    ranks.sum(torch.ones(1))


def _share_of(batch: Batch, ranks: Ranks) -> Batch:
    rows = ranks.share(BATCH)
    return Batch(batch.x_BD[rows], batch.target_BD[rows], batch.masked_share)


def windows(
    ranks: Ranks, folder: str, hook_names: list[str], indices: list[int], options: dict[str, Any]
) -> dict[str, Any]:
    """Batches of a stream over a small LM: this rank's rows at each point, or what is wrong with them, and how many
    sequences this rank's forwards read.
    """
    from support.streaming import batches_of, counted_sequences

    with counted_sequences() as read:
        found = batches_of(ranks, folder, hook_names, indices, **options)
    return {"batches": found, "sequences": sum(read)}
