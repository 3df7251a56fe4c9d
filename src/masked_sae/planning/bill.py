"""The bill: what each job of a command takes, and all of them."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from masked_sae.planning.disk import RunFiles, Text, files_of, lm_to_fetch, text_of
from masked_sae.planning.memory import Memory, memory_of
from masked_sae.planning.reading import Reading, reading_of
from masked_sae.planning.speed import MeasuredSpeed, Seconds, Speed
from masked_sae.planning.step import step_flops, steps_of
from masked_sae.runs.run import Run
from masked_sae.sweeps.foreseen import Foreseen
from masked_sae.sweeps.packs import label_of
from masked_sae.training.memory import gib


@dataclass(frozen=True)
class JobBill:
    """Of one job; None stands for what is unknown.

    Attributes:
        tokens: activations that its members are trained on, each counted.
        dense, sparse: operations of all its members' steps.
        memory: of each of the processes that train together, `ranks`.
    """

    label: str
    members: int
    tokens: int
    reading: Reading
    dense: float | None
    sparse: float | None
    memory: Memory | None
    files: RunFiles | None
    seconds: Seconds
    ranks: int


@dataclass(frozen=True)
class Bill:
    """Attributes:
    texts: that token stores are made of, by their digests.
    lm_bytes: of weights that are still to be fetched; None where nothing tells.
    assumed: what the times rest on; empty where there are none.
    unknown: what could not be told, and why, each once.
    too_large: jobs that the device does not hold, a line for each kind.
    """

    jobs: list[JobBill]
    foreseen: Foreseen
    texts: dict[str, Text]
    lm_bytes: int | None
    assumed: str
    unknown: list[str]
    too_large: list[str]

    @property
    def elapsed(self) -> float | None:
        """Seconds from the first job's start to the last one's end, if none waits for anything but another."""
        seconds, at_once = [job.seconds.total for job in self.jobs], self.foreseen.place.at_once
        if at_once is None or any(one is None for one in seconds):
            return None
        free = [0.0] * at_once
        for one in [one for one in seconds if one is not None] * self.foreseen.times:
            heapq.heapreplace(free, free[0] + one)
        return max(free)


def bill_of(foreseen: Foreseen, speed: Speed | None) -> Bill:
    """Raises:
    InputError: an LM, a hook point or a text is not there.
    """
    jobs = [_job(pack, speed, foreseen.place.on_cuda) for pack in foreseen.packs]
    texts: dict[str, Text] = {}
    lms: dict[tuple[str, str | None], int | None] = {}
    for pack, job in zip(foreseen.packs, jobs, strict=True):
        config = pack[0].config
        key, text = text_of(config)
        texts[key] = text
        lms[config.lm.name, config.lm.revision] = lm_to_fetch(config, job.reading)
    known = [size for size in lms.values() if size is not None]
    lm_bytes = sum(known) if len(known) == len(lms) else None
    unknown = _unknown(jobs, foreseen, texts, lm_bytes, speed)
    assumed = "" if speed is None else speed.assumed
    return Bill(jobs, foreseen, texts, lm_bytes, assumed, unknown, _too_large(jobs, foreseen))


def _job(pack: Sequence[Run], speed: Speed | None, on_cuda: bool) -> JobBill:
    reading = reading_of(pack)
    dense: float | None = 0.0
    sparse: float | None = 0.0
    for config in (run.config for run in pack):
        steps = steps_of(config)
        d_in = 0 if reading.forward is None else reading.forward.d_in[config.lm.hook_name]
        one = step_flops(config, d_in, on_cuda) if d_in else None
        dense = None if dense is None or one is None else dense + steps * one.dense
        sparse = None if sparse is None or one is None or one.sparse is None else sparse + steps * one.sparse
    if speed is None:
        seconds = Seconds(None, None)
    elif reading.forward is None:
        seconds = Seconds(None, None, "the LM's arithmetic")
    else:
        seconds = speed.seconds(pack, reading, on_cuda).among(pack[0].config.trainer.ranks)
    return JobBill(
        label_of(pack),
        len(pack),
        sum(steps_of(run.config) * run.config.data.batch_size for run in pack),
        reading,
        dense,
        sparse,
        memory_of(pack, reading, on_cuda),
        files_of(pack, reading),
        seconds,
        pack[0].config.trainer.ranks,
    )


def _unknown(
    jobs: Sequence[JobBill],
    foreseen: Foreseen,
    texts: dict[str, Text],
    lm_bytes: int | None,
    speed: Speed | None,
) -> list[str]:
    place = foreseen.place
    found = [f"LM: {job.reading.unknown}" for job in jobs if job.reading.unknown]
    if any(job.dense is None and job.reading.forward is not None for job in jobs):
        found.append("the step of an architecture that does not say what it costs (docs/extending.md)")
    elif any(job.sparse is None for job in jobs if job.dense is not None):
        found.append("the sparse part of steps whose price decides how many latents are active; at first all are dense")
    if place.memory is None:
        found.append(f"memory that there is: {place.unknown}")
    if speed is not None and any(job.ranks > 1 for job in jobs):
        found.append("what processes that train together take to exchange: times are divided among them")
    if speed is None:
        found.append("time: plan_measure=true takes a few steps here, plan_tflops=N counts by a device's speed")
    if isinstance(speed, MeasuredSpeed) and not place.here:
        found.append("the speed of what a job gets: the times are those of this machine")
    found += [f"time: {job.seconds.unknown}" for job in jobs if job.seconds.unknown]
    if speed is not None and place.at_once is None:
        found.append("time to the end: how many jobs run at once")
    if any(text.tokens is None for text in texts.values()):
        found.append("tokens of the text, and disk for them: known once it is tokenized (src.prepare)")
    if any(text.to_fetch for text in texts.values()):
        found.append("bytes of text to fetch: a dataset's rows differ; of a token often about 4")
    if lm_bytes is None:
        found.append("bytes of the LM to fetch")
    if foreseen.times > 1:
        found.append("members of the search: each is counted as the one with the first values, and alone")
    if foreseen.begun:
        found.append(f"what is left of {foreseen.begun} members that were begun: they are counted whole")
    return list(dict.fromkeys(found))


def _too_large(jobs: Sequence[JobBill], foreseen: Foreseen) -> list[str]:
    """Those of the same needs once."""
    there = foreseen.place.memory
    lines: dict[tuple[int, int], str] = {}
    for number, job in enumerate(jobs, 1):
        if there is not None and job.memory is not None and job.memory.peak > there:
            needed = gib(job.memory.peak)
            lines.setdefault(
                (job.members, job.memory.peak),
                f"job {number} needs {needed} and has {gib(there)}; less of: {job.memory.help(job.members)}",
            )
    return list(lines.values())
