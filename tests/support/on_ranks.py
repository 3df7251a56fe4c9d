"""What several processes that train together do in tests; each function is called on all of them at once."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masked_sae.activations.stream import Batch
from masked_sae.ranks import Ranks
from masked_sae.saes import TopKSAE
from masked_sae.saes.largest_of_all import largest_of_all
from masked_sae.training.restoring import capture, restore, share
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.schedule import Schedule
from masked_sae.training.shards import divide, make_whole, mean_threshold
from support.stepping import BATCH, NO_MASKS, STEPS, make_batch, make_training


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


def kept_of_all(ranks: Ranks, rows: Tensor, k: int, static: bool) -> Tensor:
    """What of these rows is kept, where each rank has an equal part of each in order: this rank's part."""
    own = rows.view(len(rows), ranks.count, -1)[:, ranks.rank].contiguous()
    places, values = largest_of_all(own, k, ranks, static=static)
    kept = torch.zeros_like(own)
    kept.view(-1)[places] = values
    return kept


def there_and_back(ranks: Ranks, whole: Tensor) -> tuple[Tensor, Tensor | None]:
    """A part of what the first rank has, and all of these."""
    part = ranks.part_of_first(whole if ranks.is_first else None, whole[ranks.share(len(whole))])
    return part, ranks.to_first(part)


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


def train_in_shards(
    ranks: Ranks, architecture: str, first: int, last: int, options: dict[str, Any], checkpoint: Any = None
) -> dict[str, Any]:
    """These steps where each rank has a part of the latents: on the first what the last step told, and a checkpoint."""
    training = make_training(architecture, **options)
    if checkpoint is not None and ranks.is_first:
        restore(training, checkpoint)
    divide(training, ranks, torch.device("cpu"))
    for step in range(first, last):
        training.learn(_share_of(make_batch(step), ranks))
    output, latents = training.output, len(training.sae.b_enc_F)
    found = capture(training, {})
    threshold = mean_threshold(training)
    make_whole(training)
    kept = {name: tensor for name, tensor in training.sae.state_dict().items() if ranks.is_first}
    return {
        "output": None if output is None else {name: one.detach() for name, one in vars(output).items()},
        "latents": latents,
        "threshold": threshold,
        "checkpoint": found,
        "weights": kept,
        "step": training.step,
    }


def growth(ranks: Ranks, d_in: int, d_sae: int, in_shards: bool) -> dict[str, int]:
    """Bytes of this process's memory that an SAE in training takes, after a step; alone or in parts."""
    torch.ones(8).sum()
    before = _resident()
    sae = TopKSAE(d_in, d_sae, 8, shapes="dynamic", generator=torch.Generator().manual_seed(0))
    training = SAETraining(sae, Schedule(1e-3, 0, 0.0, 4), NO_MASKS)
    del sae
    if in_shards:
        divide(training, ranks, torch.device("cpu"))
    for step in range(2):
        x_BD = torch.randn(16, d_in, generator=torch.Generator().manual_seed(step))
        rows = ranks.share(16) if in_shards else slice(None)
        training.learn(Batch(x_BD[rows], x_BD[rows], 0.0))
    kept = sum(one.nbytes for one in training.sae.parameters())
    kept += sum(one.nbytes for state in training.optimizer.state.values() for one in state.values())
    return {"resident": _resident() - before, "kept": kept}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


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
