"""What the entry points share: one line instead of a traceback for a user's mistake, and typed configuration.

Nothing heavy is imported here, so that `--help` stays fast.
"""

import difflib
import errno
import os
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from masked_sae.config import RunConfig
from masked_sae.errors import InputError, NonFiniteError

# Memory in huge pages: without them a CPU spends a tenth of a step on clearing new pages. Torch reads it once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
_OURS = "MASKED_SAE_FULL_ERROR_SET"
_CONF = Path(__file__).resolve().parents[2] / "conf"
_FEW = 8  # keys, which an error can name all


def _keys(config: type, prefix: str = "") -> Iterator[str]:
    for field in fields(config):
        if isinstance(field.type, type) and is_dataclass(field.type):
            yield from _keys(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


RUN_KEYS = tuple(_keys(RunConfig))


def flags_last(arguments: list[str]) -> list[str]:
    """Has `+sweep=mask_rate -m seed=1` mean what it says: Hydra's parser takes no setting after a flag."""
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    return [argument for argument in arguments if argument not in flags] + flags


def renamed(arguments: list[str], names: dict[str, str]) -> list[str]:
    """`key=value` with other keys, where Hydra keeps a key to itself."""
    split = (argument.partition("=") for argument in arguments)
    return [f"{names.get(key, key)}{equals}{value}" for key, equals, value in split]


def store_config(name: str) -> list[str]:
    """Has Hydra find `conf/<name>.yaml` as the configuration `name`, without `conf/` as its path.

    For commands with keys like `sweep=FOLDER`: beside `conf/sweep`, a folder of choices, Hydra would take the value for
    one of them.

    Returns:
        The file's own keys.
    """
    config = OmegaConf.load(_CONF / f"{name}.yaml")
    ConfigStore.instance().store(name, config)
    return [str(key) for key in config if key not in ("defaults", "hydra")]


def named_folders(key: str, named: Any, valid: str = "a folder that exists") -> list[Path]:
    """The folders that one key of a command names: one, or a list of them.

    Raises:
        InputError: there are none, or one is empty or not there; `valid` says what was expected.
    """
    listed = [str(one) for one in (named if isinstance(named, (list, ListConfig)) else [named])]
    if not listed:
        raise InputError(key, named, valid)
    for one in listed:
        if not one or not Path(one).expanduser().is_dir():  # an empty path would be the working folder
            raise InputError(key, one, valid)
    return [Path(one).expanduser() for one in listed]


@contextmanager
def clear_errors(keys: Sequence[str] = RUN_KEYS) -> Generator[None]:
    """Ends the command with one line on stderr and a non-zero exit where the user made a mistake.

    It stands around Hydra's own entry, for mistakes in composition, and inside it: Hydra adds lines of its own to
    exceptions that reach it, but lets an exit pass.

    Args:
        keys: what the command can be set, to name where one is mistyped.
    """
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1" and not os.environ.get(_OURS)
    os.environ["HYDRA_FULL_ERROR"] = os.environ[_OURS] = "1"  # exceptions reach us instead of Hydra's own report
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if _interrupted(error):
            sys.exit(INTERRUPTED)
        line = explain(error, keys)
        if wants_trace or line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        mistaken = isinstance(error, (InputError, HydraException, OmegaConfBaseException))
        sys.exit(BAD_INPUT if mistaken else FAILED)


def _interrupted(error: BaseException) -> bool:
    """Whether it followed from Ctrl-C: a library's clean-up may fail half-way and put its own error on top."""
    cause = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt) or (cause is not None and _interrupted(cause))


def explain(error: BaseException, keys: Sequence[str] = RUN_KEYS) -> str | None:
    """One line for errors that users can mend; None for those that only we can.

    Args:
        keys: as for `clear_errors`.
    """
    if isinstance(error, (InputError, NonFiniteError)):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left while writing {error.filename or 'a file'} ({error.strerror}): free some and start again"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _explain_composition(error, keys)
    return None


def _explain_composition(error: Exception, known: Sequence[str]) -> str:
    text = " ".join(str(error.__cause__ or error).split())
    both = " ".join(f"{error} {text}".split())
    if key := re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+') full_key: (\S+)", text):
        return _unknown_key(key[2], known)
    if key := re.search(r"Could not override '([^']+)'", both):
        return _unknown_key(key[1], known)
    if key := re.search(
        r"Could not find '([^']+)' Available options in '([^']+)': (.*?)(?: Config search path|$)", both
    ):
        *_, wanted = key[1].split("/")
        options = ", ".join(option for option in key[3].split() if not option.startswith("base"))
        return f"{key[2]}={wanted}: expected one of {options}"
    if key := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{key[1]}=???: expected a value: it has no default"
    if key := re.search(r"Value '([^']*)'.* (?:be converted to|is not a valid) (\w+).* full_key: (\S+)", text):
        kind = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}.get(key[2], key[2])
        return f"{key[3]}={key[1]}: expected {kind}"
    return text


def _unknown_key(key: str, known: Sequence[str]) -> str:
    if key in known:
        return f"{key}: expected a key of the chosen options; it belongs to another option of its group"
    if len(known) <= _FEW:
        return f"{key}: no such key; expected one of {', '.join(known)}"
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    last = key.split(".")[-1]
    near += [other for other in known if other.split(".")[-1] == last and other not in near]
    hint = ", ".join(near[:3]) if near else "see --help"
    return f"{key}: no such key; expected one of those in conf/ ({'near: ' if near else ''}{hint})"


def typed_config(config: DictConfig) -> RunConfig:
    """The composed configuration as dataclasses.

    Raises:
        OmegaConfBaseException: a key that does not exist, or a value of another type.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    path = plain.get("data", {}).get("path")
    if isinstance(path, str) and path != "???":
        plain["data"]["path"] = [path]
    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.create(plain)))
    assert isinstance(typed, RunConfig)
    return typed
