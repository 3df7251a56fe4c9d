"""Masked-regularization SAEs: what is here by name is for programs and notebooks (docs/api.md).

It is read in when it is asked for, so that `import masked_sae` takes no time: a command's `--help` needs no torch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masked_sae import evals
    from masked_sae.api.choices import optim_settings, sae_settings
    from masked_sae.api.loading import load_sae, save_sae
    from masked_sae.api.splice import splice, steer
    from masked_sae.api.sweep import read_sweep
    from masked_sae.api.training import TrainedSAE, train
    from masked_sae.errors import InputError
    from masked_sae.saes.inference import InferenceSAE

__all__ = [
    "InferenceSAE",
    "InputError",
    "TrainedSAE",
    "evals",
    "load_sae",
    "optim_settings",
    "read_sweep",
    "sae_settings",
    "save_sae",
    "splice",
    "steer",
    "train",
]

# Read once, when torch is loaded. Memory in huge pages: without them a CPU spends a tenth of a step on clearing new
# pages. Threads that wait give way: beside another busy process they would spin instead.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "InferenceSAE": "saes.inference",
    "InputError": "errors",
    "TrainedSAE": "api.training",
    "load_sae": "api.loading",
    "optim_settings": "api.choices",
    "read_sweep": "api.sweep",
    "sae_settings": "api.choices",
    "save_sae": "api.loading",
    "splice": "api.splice",
    "steer": "api.splice",
    "train": "api.training",
}


def __getattr__(name: str) -> Any:
    if name == "evals":
        return importlib.import_module("masked_sae.evals")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"masked_sae.{_HOMES[name]}"), name)
