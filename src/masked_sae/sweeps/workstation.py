"""The members of a sweep on a workstation: packs of them trained side by side, each in a process of its own."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from masked_sae.command_line import INTERRUPTED
from masked_sae.runs.folder import clear_run
from masked_sae.runs.lock import HeldError, hold
from masked_sae.runs.run import Run
from masked_sae.sweeps.local import begin_here, end_sweep
from masked_sae.sweeps.logs import WORKERS
from masked_sae.sweeps.machine import auto_workers, dealt_out, gpus_for, most_devices
from masked_sae.sweeps.packs import fits_side_by_side, make_packs
from masked_sae.sweeps.progress import screen_for
from masked_sae.sweeps.side_by_side import train_side_by_side
from masked_sae.sweeps.summary import print_members
from masked_sae.sweeps.worker import Place


def train_on_workstation(
    runs: Sequence[Run], workers: int | None, command: Sequence[str] = (), *, of_search: bool = False
) -> None:
    """As `train_here`, but for packs being trained side by side.

    Args:
        workers: how many at one time; None: as many as this machine has room for.
        command: what stood on the command line.
        of_search: as for `train_here`.
    """
    waiting = [_begun_anew(run) for run in begin_here(runs, command, of_search=of_search)]
    if waiting and not _train(runs, waiting, workers):
        print_members(runs)
        sys.exit(INTERRUPTED)
    if not of_search:
        end_sweep(runs)


def _train(runs: Sequence[Run], waiting: Sequence[Run], workers: int | None) -> bool:
    """Whether it came to its end; else by a signal."""
    gpus = gpus_for(waiting)
    count = workers or auto_workers(waiting, gpus)
    packs = make_packs(waiting, fits_side_by_side(count), workers=count)
    logs = runs[0].folder.path.parent / WORKERS
    count = min(count, len(packs))
    dealt = dealt_out(gpus, count, most_devices(waiting))
    places = [Place(number, logs / f"{number}.log", own) for number, own in enumerate(dealt)]
    how_many = f"{len(packs)} {'pack' if len(packs) == 1 else 'packs'}"
    print(f"{how_many} in {len(places)} {'worker' if len(places) == 1 else 'workers'}; their logs: {logs}", flush=True)
    return train_side_by_side(packs, places, screen_for(runs, waiting))


def _begun_anew(run: Run) -> Run:
    """`force` is obeyed here and now, not once more whenever a worker has to be replaced."""
    if run.config.force and run.folder.path.exists():
        with suppress(HeldError), hold(run.folder.lock):  # its worker says who holds it
            clear_run(run.folder)
    return replace(run, config=replace(run.config, force=False))
