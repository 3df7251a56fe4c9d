"""Memory that ran out, in one line: what was being done and with which sizes, and what helps.

First what the run goes on with, since it is not in its id; then what makes it another run, which begins anew.

`telling` stands around each kind of work; `killed` is of a process that the kernel has ended, which tells nothing.
"""

import multiprocessing
import re
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from masked_sae.config import RunConfig
from masked_sae.errors import ExhaustedError
from masked_sae.exhaustion import is_of_gpu, is_of_memory
from masked_sae.runs.checkpoint import LAST, PREVIOUS
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import Run
from masked_sae.runs.state import RunState, slurm_job_id
from masked_sae.settings import leaves

_TRIED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|\w?i?B)\b")
# What gives a process more of a machine's memory.
WORKERS, JOB, MACHINE = "fewer hydra.launcher.workers", "more hydra.launcher.mem_gb", "more memory"
_OF_GPUS = ("lm.device", "lm.device_map", "trainer.devices")  # that part the work between devices


@dataclass(frozen=True)
class Work:
    """What takes memory.

    Attributes:
        what: as a line calls it.
        goes_on: settings that make it smaller, and are not in a run's id.
        anew: those that are in it, the one that it grows with the most first.
        has_optimizer: whether an optimizer with less memory would help.
    """

    what: str
    goes_on: tuple[str, ...]
    anew: tuple[str, ...]
    has_optimizer: bool = False


LOADING = Work("loading the LM", ("lm.device", "lm.device_map"), ("lm.name", "lm.dtype"))
SCALE = Work(
    "measuring the scale of activations",
    ("lm.micro_batch_size", "lm.device", "lm.device_map"),
    ("lm.batch_size", "data.context_length"),
)
MAKING = Work("making the SAE", ("pack", "lm.device", "lm.device_map"), ("sae.d_sae",))
WINDOW = Work(
    "making a window of activations",
    ("pack", "lm.micro_batch_size", "lm.device", "lm.device_map", "trainer.devices"),
    ("data.window_tokens", "lm.batch_size", "data.context_length"),
)
STEP = Work(
    "a training step",
    ("pack", "lm.device", "lm.device_map", "trainer.devices"),
    ("sae.d_sae", "data.batch_size", "data.window_tokens"),
    has_optimizer=True,
)
VALIDATION = Work(
    "measuring on held-out text while training",
    ("pack", "eval.batch_size", "trainer.validation_tokens", "lm.device", "lm.device_map"),
    ("sae.d_sae", "data.window_tokens"),
)
CALIBRATION = Work(
    "calibrating thresholds",
    ("pack", "lm.micro_batch_size", "lm.device", "lm.device_map"),
    ("sae.calibration_tokens", "lm.batch_size", "sae.d_sae"),
)
EVALUATION = Work(
    "evaluation",
    ("pack", "eval.batch_size", "lm.micro_batch_size", "eval.tokens", "eval.families", "lm.device", "lm.device_map"),
    ("sae.d_sae",),
)
TRAINING = Work(
    "training",
    ("pack", "lm.micro_batch_size", "lm.device", "lm.device_map", "trainer.devices"),
    ("sae.d_sae", "data.window_tokens", "data.batch_size"),
    has_optimizer=True,
)


@contextmanager
def telling(work: Work, run: Run, together: int = 1) -> Generator[None]:
    """Has memory that runs out inside say so.

    Args:
        run: whose work it is, or one of those that share it.
        together: how many runs are in memory.

    Raises:
        ExhaustedError: memory ran out.
    """
    try:
        yield
    except Exception as error:
        found = told(error, work, run, together)
        if found is error:
            raise
        raise found from None


def told(error: Exception, work: Work, run: Run, together: int = 1) -> Exception:
    """What a run's state and its user are told in place of an error of memory; any other error as it is.

    What the work had in memory is let go, which the frames that the error has passed would hold as long as it is kept.
    """
    if not is_of_memory(error) or isinstance(error, ExhaustedError):
        return error
    traceback.clear_frames(error.__traceback__)
    tried = _TRIED.search(str(error))
    asked = f"; tried to allocate {_size(tried)}" if tried else ""
    place = WORKERS if multiprocessing.parent_process() is not None else JOB if slurm_job_id() is not None else MACHINE
    help_ = _help(work, run, together, None if is_of_gpu(error) else place)
    return ExhaustedError(f"out of memory in {work.what} ({_sizes(work, run.config)}{asked}): {help_}")


def killed(run: Run, state: RunState | None, place: str, together: int = 1) -> str:
    """What helps a run whose process the kernel has ended for want of memory, as far as anybody knows.

    Args:
        state: that it left behind.
        place: what gives it more: `WORKERS` or `JOB`.
        together: how many runs the process had.
    """
    work, where = TRAINING, "before its first checkpoint"
    if state is not None and state.steps and state.step >= state.steps:
        work, where = EVALUATION, "after its last step"
    elif state is not None and state.step:
        where = f"about step {state.step:,} of {state.steps:,}"
    return f"{where} ({_sizes(work, run.config)}): {_help(work, run, together, place)}"


def _help(work: Work, run: Run, together: int, place: str | None) -> str:
    """Args:
    place: None: a GPU.
    """
    goes_on = [said for key in work.goes_on if (said := _smaller(key, run.config, together, place is None)) is not None]
    goes_on += [] if place is None and goes_on else [place or MACHINE]
    how = "goes on from its checkpoint" if _has_checkpoint(run.folder) else "begins again under its id"
    other = ", or optim=adafactor," if work.has_optimizer and run.config.optim.name == "adam" else ""
    anew = f"a smaller {_either(work.anew)}{other} makes it another run, which begins anew"
    return f"it {how} with {_either(goes_on)}; {anew}"


def _smaller(key: str, config: RunConfig, together: int, on_gpu: bool) -> str | None:
    """A setting with a value that takes less memory; None where it has none."""
    if key in _OF_GPUS:
        return key if on_gpu else None
    if key == "eval.families":
        return "fewer eval.families"
    now = {
        "pack": together,
        "lm.micro_batch_size": config.lm.at_once(config.lm.batch_size),
        "eval.batch_size": config.eval.batch_size,
        "eval.tokens": config.eval.tokens,
        "trainer.validation_tokens": config.trainer.validation_tokens,
    }[key]
    return f"{key}={now // 2}" if now > 1 else None


def _sizes(work: Work, config: RunConfig) -> str:
    values = dict(leaves(config))
    return ", ".join(f"{key}={values[key]}" for key in work.anew)


def _either(choices: Sequence[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


def _size(tried: re.Match[str]) -> str:
    number, unit = tried.groups()
    return f"{int(number) / 2**30:.2f} GiB" if unit == "bytes" else f"{number} {unit}"


def _has_checkpoint(folder: RunFolder) -> bool:
    return any((folder.checkpoints / name).exists() for name in (LAST, PREVIOUS))
