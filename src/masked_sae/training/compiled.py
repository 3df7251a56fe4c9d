"""`torch.compile`, called: the one place that knows how."""

import inspect
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from masked_sae.config import TrainerSettings
from masked_sae.errors import InputError
from masked_sae.lm_files import shortened

COMPILER = "inductor"
_KEPT_IN = "TORCHINDUCTOR_CACHE_DIR"
Given = ParamSpec("Given")
Made = TypeVar("Made")


def compiler_of(trainer: TrainerSettings) -> str | None:
    """The backend that a run's steps are compiled by, if they are."""
    return COMPILER if trainer.compile else None


def compiled(function: Callable[Given, Made], backend: str) -> Callable[Given, Made]:
    """The same, fused into few kernels by the first calls, which takes seconds.

    Each has what was compiled for it to itself (`isolate_recompiles`): of one piece of code torch keeps eight versions,
    and a pack has more members.

    Raises:
        InputError: torch is too old; on being called: this machine cannot compile.
    """
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        raise InputError("trainer.compile", True, f"false with torch {torch.__version__}, or a newer one")
    _keep_in_own_folder()
    fused: Callable[Given, Made] = torch.compile(function, backend=backend, isolate_recompiles=True)  # pyright: ignore[reportCallIssue]

    @wraps(function)
    def call(*given: Given.args, **named: Given.kwargs) -> Made:
        from torch._dynamo.exc import BackendCompilerFailed  # reading it in takes a second

        try:
            return fused(*given, **named)
        except BackendCompilerFailed as error:
            valid = f"false, or what compiles here: a C++ compiler, with CUDA Triton ({shortened(error)})"
            raise InputError("trainer.compile", True, valid) from error

    return call


def forget_compiled() -> None:
    """Of SAEs that are trained: of one piece of code torch keeps 256 versions in all, and a process may train more."""
    torch.compiler.reset()


def left_alone(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """The same, as it is where something that is compiled calls it."""
    alone: Any = torch.compiler.disable(function)
    return alone  # type: ignore[no-any-return]


def _keep_in_own_folder() -> None:
    """Has torch read what was compiled before, which it unpickles, from where the other caches are, unless somebody has
    chosen: its own choice lies where others may write. It notes that in the environment as soon as it is read in.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(_KEPT_IN) in (None, default_cache_dir()):
        os.environ[_KEPT_IN] = str(Path(os.environ.get("MASKED_SAE_CACHE", ".cache"), "compiled").absolute())
