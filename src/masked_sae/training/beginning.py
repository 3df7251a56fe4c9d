"""What runs begin with: statistics of the activations that they read, and another SAE's weights where one is named."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from masked_sae.activations.scale import ActivationStatistics, measure_statistics
from masked_sae.errors import NonFiniteError
from masked_sae.runs.initial import Initial, as_initial, load_initial
from masked_sae.runs.run import Run
from masked_sae.saes import InferenceSAE
from masked_sae.training.assemble import TrainingParts
from masked_sae.training.threads import matmul_precision

Guard = Callable[[Run], AbstractContextManager[None]]  # an error inside is that run's, and no other's


@dataclass
class Candidate:
    """A run that LM and text are there for. `statistics` and `initial` are those of a run that begins."""

    run: Run
    parts: TrainingParts
    statistics: ActivationStatistics | None = None
    initial: Initial | None = None


def find_beginnings(candidates: Sequence[Candidate], of_run: Guard) -> None:
    """What runs begin with: statistics of activations, from the same forwards for all hook points; or those of the run
    that one begins with, and its SAE. Refuses what it has to before a run has a folder.
    """
    unscaled: list[tuple[Candidate, InferenceSAE | None]] = []
    for one in candidates:
        if one.run.config.init_from is None:
            unscaled.append((one, None))
            continue
        with of_run(one.run):
            begins_with = load_initial(one.run.config, one.parts.lm.d_in)
            if isinstance(begins_with, InferenceSAE):
                unscaled.append((one, begins_with))
            else:
                one.initial, one.statistics = begins_with, begins_with.statistics
    if unscaled:
        _measure_statistics(unscaled, of_run)


def _measure_statistics(candidates: Sequence[tuple[Candidate, InferenceSAE | None]], of_run: Guard) -> None:
    """Measures them for all, and brings the SAEs from elsewhere that some begin with to their scale."""
    config, parts = candidates[0][0].run.config, candidates[0][0].parts
    lms = {one.parts.lm.hook_name: one.parts.lm for one, _ in candidates}
    with matmul_precision(config.trainer.matmul_precision):  # one for all of a pack: runs of others share no forwards
        measured = measure_statistics(
            list(lms.values()), parts.sequences, config.data.scale_tokens, config.lm.batch_size
        )
    found = dict(zip(lms, measured, strict=True))
    for one, sae in candidates:
        with of_run(one.run):
            statistics = found[one.parts.lm.hook_name]
            if isinstance(statistics, NonFiniteError):
                raise statistics
            one.statistics = statistics
            one.initial = None if sae is None else as_initial(one.run.config, sae, statistics)
