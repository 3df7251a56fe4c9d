"""SAEs from disk and to disk."""

from dataclasses import replace
from pathlib import Path

from masked_sae.errors import InputError
from masked_sae.interop import loading, saelens
from masked_sae.saes import InferenceSAE


def load_sae(source: str | Path, *, device: str = "cpu") -> InferenceSAE:
    """An SAE, usable at once.

    Args:
        source: a run's folder, one of SAELens or dictionary_learning, or a name on the hub:
            `owner/repo[/folder][@revision]`, or SAELens' `release:sae_id`.

    Raises:
        InputError: there is none, or one that does more than encode and decode an activation.
        DamagedFileError: this project exported it, and other bytes are there now.
    """
    sae, metadata = loading.load_sae(source)
    return replace(sae.to(device), metadata=metadata)


def save_sae(sae: InferenceSAE, folder: str | Path) -> Path:
    """Writes an SAE in SAELens' format, which `load_sae` and SAELens read.

    Raises:
        InputError: there is something already, or the SAE does more than encode by one product.
    """
    path = Path(folder).expanduser()
    if type(sae) is not InferenceSAE:
        raise InputError("sae", type(sae).__name__, "an SAE whose encoder is one product, as all that train here have")
    if path.exists():
        raise InputError("folder", path, "a folder that does not exist yet")
    origin = {key: value for key, value in sae.metadata.items() if key != "sae_lens_version"}  # of what wrote it then
    saelens.export_sae(path, sae, origin)
    return path
