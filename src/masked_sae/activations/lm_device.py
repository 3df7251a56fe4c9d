"""Where an LM runs: with the SAEs, on a device of its own, or over several GPUs."""

import torch

from masked_sae.activations.settings import LMSettings
from masked_sae.errors import InputError


def find_lm_device(lm: LMSettings, saes: torch.device) -> torch.device:
    """Of an LM over several GPUs, the first: which one reads its tokens is known once it is loaded.

    Args:
        saes: where the SAEs train.

    Raises:
        InputError: this machine does not have the GPU, or not as many.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if lm.device_map is not None and lm.device_map.isdigit() and int(lm.device_map) > gpus:
        raise InputError("lm.device_map", lm.device_map, f"at most the GPUs of this machine, which are {gpus}")
    if lm.device is None:
        return saes
    device = torch.device(lm.device)
    if device.type == "cpu":
        return device
    if gpus == 0:
        raise InputError("lm.device", lm.device, "cpu or null: this machine has no CUDA device")
    if lm.device == "cuda":
        return saes if saes.type == "cuda" else device
    if device.index >= gpus:
        raise InputError("lm.device", lm.device, f"cuda:0 to cuda:{gpus - 1}, which this process sees")
    return device


def is_apart(lm: LMSettings, saes: torch.device) -> bool:
    """Whether nothing of the LM lies where the SAEs train, as the settings tell."""
    if lm.device is None or lm.device_map is not None:
        return False
    own = torch.device(lm.device)
    return own.type != saes.type or (lm.device.startswith("cuda:") and own.index != (saes.index or 0))


def runs_ahead(ahead: str, lm: LMSettings, saes: torch.device) -> bool:
    """`data.ahead`, decided: on a device that LM and SAEs share, they would take turns at it all the same."""
    return ahead == "true" or (ahead == "auto" and share_beside(lm, saes) < 1)


def share_beside(lm: LMSettings, saes: torch.device) -> float:
    """Share of the LM that lies where the SAEs train; of one over an unknown number of GPUs, all."""
    if is_apart(lm, saes):
        return 0.0
    if lm.device_map is None or saes.type != "cuda":
        return 1.0
    count = int(lm.device_map) if lm.device_map.isdigit() else torch.cuda.device_count()
    return 1 / max(1, count)
