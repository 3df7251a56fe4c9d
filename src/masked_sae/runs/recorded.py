"""Runs as their folders have them on record, to measure and look at them, with what a command line changes of that."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from masked_sae.bundled import command_name
from masked_sae.config import RunConfig, check_measuring, recorded_config
from masked_sae.errors import DamagedFileError, InputError, one_line
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import read_results
from masked_sae.runs.run import Run
from masked_sae.settings import without_neutral

_OWN = ("lm", "data", "eval", "trainer")  # of a run's configuration, what the command line may change


def recorded_run(key: str, folder: RunFolder, settings: RunConfig, overrides: Sequence[str]) -> Run:
    """With the configuration of its folder, the command's `eval`, and what else stood on the command line.

    Args:
        key: of the command, that names the folder.
        settings: of the command: defaults and overrides.
        overrides: what stood on the command line.

    Raises:
        InputError, DamagedFileError: the folder holds no configuration that can be read.
    """
    stored = read_config(folder.config)
    lacks = [room for room in ("mask", "sae", "optim") if room not in stored]
    if lacks:
        raise InputError(key, folder.config, f"a whole configuration: this one lacks {', '.join(lacks)}")
    with refused_in_a_line(key, folder.config):
        change(stored, settings, overrides)
        record: Any = OmegaConf.to_container(stored, resolve=True)
        config = recorded_config(stored, settings, _own(folder, record))
    check_measuring(config)
    return Run(folder, {}, config, on_record=record)


@contextmanager
def refused_in_a_line(key: str, path: Path) -> Generator[None]:
    """Has what a configuration on record lacks, or has in another form, be told in a line."""
    try:
        yield
    except MissingMandatoryValue as error:
        valid = f"a whole configuration: this one lacks {error.full_key}; {error.full_key}=VALUE would name it"
        raise InputError(key, path, valid) from error
    except (
        OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError, YAMLError, OmegaConfBaseException
    ) as error:  # fmt: skip
        raise InputError(key, path, f"a run's configuration ({one_line(error)})") from error


def change(stored: DictConfig, settings: RunConfig, overrides: Sequence[str]) -> None:
    """Puts what the command line says into a configuration on record."""
    plain = without_neutral(settings)
    asked = OmegaConf.create({key: plain[key] for key in _OWN})
    for key in keys_of(overrides):
        if key.split(".")[0] in _OWN:
            OmegaConf.update(stored, key, OmegaConf.select(asked, key), merge=False, force_add=True)
    stored["eval"] = asked["eval"]
    OmegaConf.update(stored, "trainer.progress", settings.trainer.progress, force_add=True)


def keys_of(overrides: Sequence[str]) -> list[str]:
    """What the command line names."""
    return [override.lstrip("+~").partition("=")[0] for override in overrides]


def _own(folder: RunFolder, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the results tell of a user's own.

    Raises:
        DamagedFileError: they are damaged, and only they could tell.
    """
    try:
        return read_results(folder).own
    except FileNotFoundError:
        return {}
    except DamagedFileError as error:
        rooms = [record.get("sae"), *(record.get("mask") or {}).values()]
        if any(isinstance(room, Mapping) and cast(Mapping[str, Any], room).get("_module_") for room in rooms):
            mend = f"remove it, and {command_name('train')} of the run writes it again"
            raise DamagedFileError(error.path, error.why, mend) from error
        return {}
