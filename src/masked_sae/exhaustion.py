"""Errors that say that memory ran out, whoever raised them: torch on a GPU or a CPU, Python, a system call."""

import errno

import torch

from masked_sae.errors import ExhaustedError

_SAID = (  # by those who raise a plain RuntimeError
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
    "std::bad_alloc",
)


def is_of_memory(error: BaseException | None) -> bool:
    """Whether it was raised because memory ran out."""
    if isinstance(error, (ExhaustedError, torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def is_of_gpu(error: BaseException) -> bool:
    """Of one that is of memory: whether it was a GPU's."""
    return isinstance(error, torch.OutOfMemoryError) or str(error).startswith("CUDA")
