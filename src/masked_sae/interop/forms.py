"""What other tools' architectures become: an `InferenceSAE` that encodes and decodes as they do. And what is said of
files that hold none.

Axes: D `d_in`, F `d_sae`.
"""

from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from masked_sae.errors import DamagedFileError, InputError
from masked_sae.files import read_object
from masked_sae.saes import InferenceSAE

_SHOWN = 60  # characters of a value that is refused


def gated(
    W_enc_DF: Tensor,
    b_gate_F: Tensor,
    r_mag_F: Tensor,
    b_mag_F: Tensor,
    W_dec_FD: Tensor,
    b_dec_D: Tensor,
    b_in_D: Tensor,
) -> InferenceSAE:
    """On where `x W_enc + b_gate > 0`; then `exp(r_mag) x W_enc + b_mag`, which grows with it: a threshold says so."""
    gain_F = r_mag_F.exp()
    threshold_F = (b_mag_F - gain_F * b_gate_F).clamp_min(0)
    return InferenceSAE(W_enc_DF * gain_F, b_mag_F, W_dec_FD, b_dec_D, b_in_D, threshold_F)


def both_signs(sae: InferenceSAE) -> InferenceSAE:
    """An AbsTopK SAE (arXiv 2510.00404), whose `k` largest latents by magnitude keep their signs, said with latents of
    one sign: each becomes two, of opposite directions, and the `k` largest of these are the same. Latent `i` there is
    latent `i` less latent `i + F` here.
    """
    return InferenceSAE(
        torch.cat([sae.W_enc_DF, -sae.W_enc_DF], 1),
        torch.cat([sae.b_enc_F, -sae.b_enc_F]),
        torch.cat([sae.W_dec_FD, -sae.W_dec_FD]),
        sae.b_dec_D,
        sae.b_in_D,
        k=sae.k,
    )


def check_computable(folder: Path, sae: InferenceSAE) -> None:
    """Folding divides by a norm, and takes an exponential.

    Raises:
        InputError: what it is computed with is not finite.
    """
    for name in ("W_enc_DF", "b_enc_F", "W_dec_FD", "threshold_F"):
        tensor = getattr(sae, name)
        if tensor is not None:
            check_finite(folder, f"{name.rpartition('_')[0]} as it is computed with", tensor)


def check_finite(folder: Path, name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise InputError("sae", folder, f"finite numbers as {name}: {bad} of {tensor.numel()} are none")


def read_config_file(folder: Path, name: str) -> dict[str, Any]:
    """What an SAE's folder tells of it, in a file of JSON.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_object(folder / name)
    except DamagedFileError as error:
        raise InputError("sae", folder, f"a readable SAE: its {name} is none ({error.why})") from error
    except OSError as error:
        raise InputError("sae", folder, f"a readable {name} ({error.strerror})") from error


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """A whole number above 0, however it is written."""
    return is_number(value) and value >= 1 and value % 1 == 0


def short(value: Any) -> str:
    """A value of somebody's file, however long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
