"""How fast a job would be: by a throughput that is given, or by a few steps taken here.

Axes: B activations, D `d_in`, N sequences, T positions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import torch

from masked_sae.activations.lm import load_lm
from masked_sae.activations.lm_device import find_lm_device, is_apart, runs_ahead
from masked_sae.activations.scale import ActivationStatistics
from masked_sae.activations.stream import Batch
from masked_sae.config import RunConfig
from masked_sae.masks.run_masks import Masks
from masked_sae.planning.reading import Reading
from masked_sae.planning.step import step_flops, steps_of
from masked_sae.randomness import torch_generator
from masked_sae.runs.run import Run
from masked_sae.training.assemble import begin_training, find_device
from masked_sae.training.compiled import compiler_of
from masked_sae.training.memory import device_of_saes
from masked_sae.training.threads import DEFAULT_THREADS

_TIMED = 3  # after one that is not
_TERA = 1e12


@dataclass(frozen=True)
class Seconds:
    """Of a job; None where `unknown` says why.

    Attributes:
        at_once: whether the LM works while SAEs train, on another device.
    """

    lm: float | None
    saes: float | None
    unknown: str = ""
    at_once: bool = False

    @property
    def total(self) -> float | None:
        """Of work at one time the longer's: a window of activations is short beside it."""
        if self.lm is None or self.saes is None:
            return None
        return max(self.lm, self.saes) if self.at_once else self.lm + self.saes

    def among(self, ranks: int) -> "Seconds":
        """For so many processes that share the work, as if they exchanged nothing."""
        lm, saes = (None if one is None else one / ranks for one in (self.lm, self.saes))
        return Seconds(lm, saes, self.unknown)


class Speed(Protocol):
    @property
    def assumed(self) -> str:
        """What the times rest on, in a line."""
        ...

    def seconds(self, pack: Sequence[Run], reading: Reading, on_cuda: bool) -> Seconds: ...


@dataclass(frozen=True)
class GivenSpeed:
    """Args:
    tflops: that a device can do, by dtype.
    utilization: the share of it that is reached.
    """

    tflops: dict[str, float]
    utilization: float | None

    @property
    def assumed(self) -> str:
        by = ", ".join(f"{tflops:g} TFLOP/s in {dtype}" for dtype, tflops in self.tflops.items())
        if self.utilization is None:
            return f"at least, at {by}, all of it used (plan_utilization)"
        return f"at {by}, of which {self.utilization:.0%} are reached"

    def seconds(self, pack: Sequence[Run], reading: Reading, on_cuda: bool) -> Seconds:
        if reading.forward is None or reading.flops is None:
            return Seconds(None, None, "the LM's arithmetic")
        configs = [run.config for run in pack]
        wanted = {configs[0].lm.dtype, "float32", *(config.sae.compute_dtype for config in configs)}
        if lacking := sorted(wanted - self.tflops.keys()):
            return Seconds(None, None, f"plan_tflops does not say {lacking[0]}")
        saes = 0.0
        for config in configs:
            d_in = reading.forward.d_in[config.lm.hook_name]
            flops = step_flops(config, d_in, on_cuda)
            if flops is None:
                return Seconds(None, None, f"the arithmetic of a step of {config.sae.architecture}")
            product = min(flops.dense, 2 * config.data.batch_size * d_in * config.sae.d_sae)  # the encoder's
            others = flops.dense - product + (flops.sparse or 0.0)
            a_step = self._at(product, config.sae.compute_dtype) + self._at(others, "float32")
            saes += steps_of(config) * a_step
        return Seconds(self._at(reading.flops, configs[0].lm.dtype), saes, at_once=_at_once(configs[0]))

    def _at(self, flops: float, dtype: str) -> float:
        return flops / (_TERA * self.tflops[dtype] * (self.utilization or 1.0))


@dataclass
class MeasuredSpeed:
    """Takes a forward and a step of each kind once; on random tokens and numbers, as only the time matters. Reads the
    LM's weights, and has the device that this machine has.
    """

    _known: dict[Any, float] = field(default_factory=dict[Any, float])

    @property
    def assumed(self) -> str:
        return "as a forward of the LM and a step of each SAE took here, on random numbers, at their first steps"

    def seconds(self, pack: Sequence[Run], reading: Reading, on_cuda: bool) -> Seconds:
        first = pack[0].config
        device = find_device(first.trainer.device)
        torch.set_num_threads(first.trainer.threads or DEFAULT_THREADS)
        lm, length = first.lm, first.data.context_length
        where = (device.type, lm.device, lm.device_map)
        key = (lm.name, lm.revision, lm.dtype, lm.at_once(lm.batch_size), reading.points, length, where)
        a_forward = self._once(key, lambda: _forward_seconds(first, reading.points, device))
        assert reading.forward is not None
        saes = 0.0
        for config in (run.config for run in pack):
            d_in = reading.forward.d_in[config.lm.hook_name]
            kind = (repr(config.sae), repr(config.optim), d_in, config.data.batch_size, device.type)
            saes += steps_of(config) * self._once(kind, lambda c=config, d=d_in: _step_seconds(c, d, device))
        return Seconds(reading.forwards * a_forward, saes, at_once=_at_once(first))

    def _once(self, key: Any, measure: Callable[[], float]) -> float:
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]


def _at_once(config: RunConfig) -> bool:
    saes = device_of_saes(config)
    return is_apart(config.lm, saes) and runs_ahead(config.data.ahead, config.lm, saes)


def speed_of(config: RunConfig) -> Speed | None:
    """None where nothing was asked for."""
    if config.plan_measure:
        return MeasuredSpeed()
    if config.plan_tflops is None:
        return None
    given: Any = config.plan_tflops
    by_dtype: dict[Any, Any] = given if isinstance(given, dict) else dict.fromkeys(("float32", "bfloat16"), given)
    return GivenSpeed({str(dtype): float(tflops) for dtype, tflops in by_dtype.items()}, config.plan_utilization)


def _forward_seconds(config: RunConfig, points: Sequence[str], device: torch.device) -> float:
    lm = load_lm(
        config.lm.name,
        points[0],
        config.lm.dtype,
        str(find_lm_device(config.lm, device)),
        revision=config.lm.revision,
        gives_on=device,
        device_map=config.lm.device_map,
    )
    generator = torch.Generator().manual_seed(0)
    shape = (config.lm.at_once(config.lm.batch_size), config.data.context_length)
    tokens_NT = torch.randint(min(1000, lm.vocab_size), shape, generator=generator)
    return _timed(lambda: lm.activations_at(points, tokens_NT), device)


def _step_seconds(config: RunConfig, d_in: int, device: torch.device) -> float:
    training = begin_training(
        config.sae,
        config.optim,
        ActivationStatistics(1.0, torch.zeros(d_in)),
        Masks({}),
        steps=steps_of(config),
        seed=config.seed,
        device=device,
        compiler=compiler_of(config.trainer),
    )
    x_BD = torch.randn(config.data.batch_size, d_in, generator=torch_generator(config.seed, "plan")).to(device)
    return _timed(lambda: training.learn(Batch(x_BD, x_BD, 0.0)), device)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    taken: list[float] = []
    for _ in range(1 + _TIMED):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return median(taken[1:])
