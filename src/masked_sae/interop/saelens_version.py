"""A threshold that SAELens saved wrong before its 6.54.12 (its #763).

Of BatchTopK and Matryoshka SAEs that choose latents as if decoder rows had norm 1, the scale of the activations that
they were trained on is folded into the decoder, and with the decoder's norm into the latents; their threshold kept the
scale of training.
"""

from pathlib import Path
from typing import Any, cast

from masked_sae.errors import DamagedFileError, notice
from masked_sae.files import read_object
from masked_sae.interop.saelens_config import SAELensConfig, version_of
from masked_sae.saes import InferenceSAE

_MENDED = (6, 54, 12)
_AFFECTED = ("batchtopk", "matryoshka_batchtopk")
_TRAINING = "runner_cfg.json"  # what SAELens leaves beside an SAE of its own training
_UNIT = 1e-3  # how far a decoder's norms may be from 1


def tell_doubt(folder: Path, config: SAELensConfig, sae: InferenceSAE) -> None:
    """A note where the SAE may have such a threshold."""
    version = config.metadata.get("sae_lens_training_version") or config.metadata.get("sae_lens_version")
    numbers = version_of(version)
    if config.older or numbers is None or numbers >= _MENDED or not _may_be_affected(config, sae):
        return
    scaled = _scaled(folder)
    if scaled is not False:
        whether = "on" if scaled else "if it was trained on"
        notice(
            f"{folder}: SAELens {version} saved the threshold of such an SAE, {whether} scaled activations, at "
            "the scale of training (mended in 6.54.12, its #763): its L0 may be far from that of training"
        )


def _may_be_affected(config: SAELensConfig, sae: InferenceSAE) -> bool:
    """By its training where that is told, else by what it leaves: one threshold for all, and decoder rows of norm 1."""
    if config.architecture != "jumprelu" or sae.threshold_F is None:
        return False
    trained = config.metadata.get("training_architecture")
    if trained is not None and trained not in _AFFECTED:
        return False
    if not (sae.threshold_F == sae.threshold_F[0]).all() or not (sae.threshold_F[0] > 0):
        return False
    return bool(((sae.W_dec_FD.norm(dim=1) - 1).abs() < _UNIT).all())


def _scaled(folder: Path) -> bool | None:
    """Whether it was trained on scaled activations; None where nothing tells."""
    try:
        settings: Any = read_object(folder / _TRAINING).get("sae")
    except (OSError, DamagedFileError):
        return None
    if not isinstance(settings, dict):
        return None
    how = cast(dict[str, Any], settings).get("normalize_activations")
    return how == "expected_average_only_in" if isinstance(how, str) else None
