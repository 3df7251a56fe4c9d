"""All but the first of several processes that train together: each reads LM and text, is given the SAEs as they are,
and takes part in every step. It writes nothing.
"""

import itertools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from masked_sae.activations.scale import ActivationStatistics
from masked_sae.activations.windows import Point
from masked_sae.command_line import explain
from masked_sae.errors import one_line
from masked_sae.runs.carried import carried, unpacked
from masked_sae.runs.run import Run, find_inputs_of
from masked_sae.training.assemble import find_device, load_lm_and_text, make_parts, make_stream, make_training
from masked_sae.training.callbacks.together import TogetherCallback
from masked_sae.training.clock import TrainingClock
from masked_sae.training.fit import fit
from masked_sae.training.member import Member
from masked_sae.training.rank_group import hear, is_of_a_peer, joined, store_of_job, task_of_job, tell
from masked_sae.training.run_in_training import RunInTraining
from masked_sae.training.sae_training import SAETraining
from masked_sae.training.sharing_out import gather_trained, share_out
from masked_sae.training.stop_signals import SIGNALS, StopRequest
from masked_sae.training.threads import use_threads

_CONNECTING = timedelta(minutes=5)


@dataclass(frozen=True)
class Task:
    """What the first one tells the others: plain values.

    Attributes:
        runs: members of a pack, as `carried` gives them.
        statistics: of each one's activations.
    """

    runs: Sequence[Mapping[str, Any]]
    statistics: Sequence[dict[str, Any]]

    @staticmethod
    def of(members: Sequence[RunInTraining]) -> dict[str, Any]:
        runs = [carried(member.run) for member in members]
        return asdict(Task(runs, [member.statistics.to_json() for member in members]))


class _Followed(Member):
    """A member whose folder is the first one's."""

    def __init__(self, run: Run, training: SAETraining, point: Point, clock: TrainingClock) -> None:
        self.run, self.training, self.point, self.clock = run, training, point, clock
        self._has_ended = False

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def fail(self, error: Exception) -> None:
        self._has_ended = True

    def end(self) -> None:
        self._has_ended = True


def follow(store: dist.Store, rank: int, count: int, local_rank: int) -> None:
    """Trains every pack that the first one tells of, until it says that there is none. It is told what befalls one;
    there may be another.

    Signals are for the first one to heed: it tells what comes of them.
    """
    for signal_number in (*SIGNALS, signal.SIGUSR1):
        signal.signal(signal_number, signal.SIG_IGN)
    for number in itertools.count():
        told = hear(store, f"task/{number}")
        if told is None:
            return
        try:
            _train(Task(**told), store, number, rank, count, local_rank)
        except Exception as error:  # noqa: BLE001 - of whatever kind: the first one has a state to write it to
            if not is_of_a_peer(error):  # who knows better
                store.set(f"error/{number}/{rank}", explain(error) or one_line(error))


def follow_in_job() -> None:
    """As `follow`, of a task of a SLURM job."""
    rank, count = task_of_job()
    follow(store_of_job(), rank, count, int(os.environ.get("SLURM_LOCALID", 0)))


def _train(task: Task, store: dist.Store, number: int, rank: int, count: int, local_rank: int) -> None:
    runs = [unpacked(one) for one in task.runs]
    first = runs[0].config
    device = find_device(first.trainer.device, local_rank)
    use_threads(None, first.trainer.threads)
    tell(store, f"here/{number}/{rank}", True)
    with joined(store, number, rank, count, device) as (ranks, ranks_of_stream):
        found = load_lm_and_text(first, find_inputs_of(runs[0]), device)
        parts = [make_parts(run, found, find_inputs_of(run)) for run in runs]
        members: list[_Followed] = []
        for run, own, kept in zip(runs, parts, task.statistics, strict=True):
            statistics = ActivationStatistics.from_json(kept)
            training = make_training(run, own, statistics)
            share_out(training, first.trainer, ranks, device)
            point = Point(run.config.lm.hook_name, statistics.scale)
            members.append(_Followed(run, training, point, TrainingClock(device)))
        longest = max(zip(runs, parts, strict=True), key=lambda one: one[1].plan.steps)
        points = list(dict.fromkeys(member.point for member in members))
        stream = make_stream(*longest, points, ranks=ranks_of_stream)
        fit(members, stream, [TogetherCallback(ranks)], StopRequest(), first.trainer, ranks)
        gather_trained(members)


def main() -> None:
    """`python -m masked_sae.training.follow ADDRESS PORT RANK COUNT`, as `training/lead.py` starts it."""
    address, port, rank, count = sys.argv[1], *map(int, sys.argv[2:])
    store = dist.TCPStore(address, port, is_master=False, timeout=_CONNECTING)
    follow(store, rank, count, local_rank=rank)


if __name__ == "__main__":
    main()
