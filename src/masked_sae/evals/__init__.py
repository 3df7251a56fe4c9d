"""Metrics of a trained SAE, one file for each family; plain functions on tensors where they can be.

What needs nothing but tensors is here by name, read in when it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masked_sae.evals.core import max_decoder_cosine
    from masked_sae.evals.on_tensors import (
        latent_frequency,
        measure_absorption,
        measure_reconstruction,
        measure_sparse_probing,
        measure_tpp,
    )

__all__ = [
    "latent_frequency",
    "max_decoder_cosine",
    "measure_absorption",
    "measure_reconstruction",
    "measure_sparse_probing",
    "measure_tpp",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "core" if name == "max_decoder_cosine" else "on_tensors"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
