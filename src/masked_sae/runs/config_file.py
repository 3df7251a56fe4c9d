"""`config.yaml` of a run: enough to run it again, under a line that tells whether all of it is there."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from masked_sae.errors import DamagedFileError, first_line
from masked_sae.files import write_text

_SIGNED = re.compile(r"# sha256 of what follows: ([0-9a-f]{64})\n")


def write_config(path: Path, settings: Mapping[str, Any]) -> None:
    text = OmegaConf.to_yaml(OmegaConf.create(dict(settings)))
    write_text(path, f"# sha256 of what follows: {_digest(text)}\n{text}")


def read_config(path: Path) -> DictConfig:
    """What the file holds. One from before it was signed is taken as it is.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is not what was written, or no configuration.
    """
    mend = "start the run again, and it is written anew"
    try:
        text = path.read_text(encoding="utf-8")
        signed = _SIGNED.match(text)
        if signed is not None and _digest(text[signed.end() :]) != signed[1]:
            raise DamagedFileError(path, "its content does not match its digest", mend)
        found = OmegaConf.create(text)
    except (ValueError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise DamagedFileError(path, first_line(error), mend) from error
    if not isinstance(found, DictConfig) or not any(value is not None for value in found.values()):
        raise DamagedFileError(path, "no configuration in it", mend)
    return found


def is_signed(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return _SIGNED.match(file.readline()) is not None
    except (OSError, UnicodeDecodeError):
        return False


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
