"""What the entry points share: one line instead of a traceback for a user's mistake.

Nothing heavy is imported here, so that `--help` stays fast.
"""

import difflib
import errno
import itertools
import os
import re
import sys
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import BooleanNode, FloatNode, IntegerNode, ListConfig, OmegaConf, StringNode
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from masked_sae.bundled import CONF
from masked_sae.errors import DamagedFileError, ExhaustedError, InputError, NonFiniteError, first_line, printable, shown

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
_OURS = "MASKED_SAE_FULL_ERROR_SET"
_FEW = 8  # keys, which an error can name all


def settings_together(arguments: list[str]) -> list[str]:
    """Has `+sweep=mask_rate -m seed=1` mean what it says: Hydra's parser takes no setting after a flag. With `--cfg` or
    `--info`, which show one configuration, `-m` says no more.
    """
    settings: list[str] = []
    options: list[str] = []
    for before, argument in itertools.pairwise(["", *arguments]):
        is_value = before in _WITH_VALUE or (before == "--info" and "=" not in argument)
        (options if is_value or argument.startswith("-") else settings).append(argument)
    if any(option in _SHOWS or option.partition("=")[0] in _SHOWS for option in options):
        options = [option for option in options if option not in ("-m", "--multirun")]
    return [*map(quoted, settings), *options]


_SHOWS = ("--cfg", "-c", "--info")


def quoted(argument: str) -> str:
    """Has `data.path=/a=b.txt`, `~/a.txt` and `/größe.txt` mean the files of these names: Hydra's parser wants values
    with other than a few plain letters and signs in quotes.
    """
    key, equals, value = argument.partition("=")
    if any(letter in value for letter in "'\"\\()[]{}"):  # quoted already, a list, a function or a reference
        return argument
    parts = value.split(",")
    return f"{key}{equals}" + ",".join(part if _PLAIN.fullmatch(part) else f"'{part}'" for part in parts)


_WITH_VALUE = (
    "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c",
    "--experimental-rerun",
)  # fmt: skip
_PLAIN = re.compile(r"[\w/+.$%*@?|: -]*", re.ASCII)


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
    config = OmegaConf.load(CONF / f"{name}.yaml")
    ConfigStore.instance().store(name, config)
    return [str(key) for key in config if key not in ("defaults", "hydra")]


def named_folders(key: str, named: Any, valid: str = "a folder that exists") -> list[Path]:
    """The folders that one key of a command names: one, or a list of them.

    Raises:
        InputError: there are none, or one is empty or not there; `valid` says what was expected.
    """
    listed = named_texts(key, named, valid)
    for one in listed:
        if not Path(one).expanduser().is_dir():
            raise InputError(key, one, valid)
    return [Path(one).expanduser() for one in listed]


def named_texts(key: str, named: Any, valid: str) -> list[str]:
    """What one key of a command names: one, or a list of them.

    Raises:
        InputError: there are none, or one is empty, which as a path would be the working folder.
    """
    listed = [str(one) for one in (named if isinstance(named, (list, ListConfig)) else [named])]
    for one in listed or [""]:
        if not one:
            raise InputError(key, one if listed else named, valid)
    return listed


@contextmanager
def clear_errors(keys: Sequence[str] | None = None, more: Sequence[str] = ()) -> Generator[None]:
    """Ends the command with one line on stderr and a non-zero exit where the user made a mistake.

    It stands around Hydra's own entry, for mistakes in composition, and inside it: Hydra adds lines of its own to
    exceptions that reach it, but lets an exit pass.

    Args:
        keys: what the command can be set, to name where one is mistyped; None: a run's configuration.
        more: keys besides.
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
        line = explain(error, keys, more)
        if wants_trace or line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        mistaken = isinstance(error, (InputError, HydraException, OmegaConfBaseException))
        sys.exit(BAD_INPUT if mistaken else FAILED)


def _interrupted(error: BaseException) -> bool:
    """Whether it followed from Ctrl-C: a library's clean-up may fail half-way and put its own error on top."""
    cause = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt) or (cause is not None and _interrupted(cause))


def explain(error: BaseException, keys: Sequence[str] | None = None, more: Sequence[str] = ()) -> str | None:
    """One line for errors that users can mend; None for those that only we can.

    Args:
        keys, more: as for `clear_errors`.
    """
    line = _line(error, keys, more)
    return None if line is None else printable(line)


def _line(error: BaseException, keys: Sequence[str] | None, more: Sequence[str]) -> str | None:
    if isinstance(error, (InputError, NonFiniteError, DamagedFileError, ExhaustedError)):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left while writing {error.filename or 'a file'} ({error.strerror}): free some and start again"
    if isinstance(error, OSError) and error.errno in _MENDABLE and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}: {_MENDABLE[error.errno]}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _explain_composition(error, keys, more)
    if isinstance(error, ValueError) and str(error).startswith(_OF_OPTIONS):
        return str(error)
    if isinstance(error, (ValueError, TypeError, AttributeError, IndexError)):
        return _explain_plain(error)
    if isinstance(error, (RuntimeError, MemoryError, OSError)):
        from masked_sae.exhaustion import is_of_memory  # only now: it reads in torch

        return f"out of memory ({shown(first_line(error))})" if is_of_memory(error) else None
    return None


_OF_OPTIONS = ("Only one of --run", "The --resolve flag")  # Hydra's own words for its options


# What a user can mend about a file or a folder, whatever was to be done with it.
_MENDABLE = {
    errno.EACCES: "expected a place that you may read and write",
    errno.EPERM: "expected a place that you may read and write",
    errno.EROFS: "expected a place that can be written (output_dir, data.store_dir, eval.cache_dir name others)",
    errno.ENOTDIR: "expected a folder on the way, where a file lies",
    errno.EISDIR: "expected a file, where a folder lies",
    errno.EEXIST: "expected a folder, where a file lies",
    errno.ENAMETOOLONG: "expected a shorter name",
    errno.ELOOP: "expected links that lead somewhere",
    errno.EIO: "the disk fails; start again when it works",
    errno.ESTALE: "the network file system lost it; start again",
    errno.ENODEV: "expected a place that can be written",
    errno.ETXTBSY: "another program has it open; start again",
    errno.ENOTCONN: "the network file system is away; start again when it is back",
    errno.ETIMEDOUT: "the network file system does not answer; start again when it does",
    errno.EMFILE: "too many files are open: expected a higher limit (ulimit -n)",
}


def _explain_composition(error: BaseException, keys: Sequence[str] | None, more: Sequence[str]) -> str:
    """Hydra names what it tried, OmegaConf below it the key and the value."""
    chain = [error, *_causes(error)]
    for one in chain:
        if isinstance(one, (ConfigKeyError, ConfigAttributeError)) and one.full_key:
            return _unknown_key(one.full_key, [*_known_keys(keys), *more])
        if isinstance(one, MissingMandatoryValue):
            return f"{one.full_key}=???: expected a value: it has no default"
        if isinstance(one, ValidationError) and one.full_key:
            kind = _KINDS.get(type(one.child_node), "another kind of value")
            return f"{one.full_key}={shown(one.value)}: expected {kind}"
        if isinstance(one, MissingConfigException) and one.options and one.missing_cfg_file:
            group, _, wanted = one.missing_cfg_file.rpartition("/")
            options = ", ".join(option for option in one.options if not option.startswith("base"))
            return f"{group}={wanted}: expected one of {options}"
        if isinstance(one, OverrideParseException):
            key, _, value = str(one.override).partition("=")
            how = f"""; a text with special characters is quoted twice: '{key}="{value}"'""" if value else ""
            return f"{shown(one.override)}: expected key=value as Hydra reads it{how}"
    said = " ".join(str(chain[-1]).split())
    if found := re.match(r"Ambiguous value for argument '(.*?)' 1\. ", said):
        key, _, values = found[1].partition("=")
        return (
            f"{found[1]}: expected -m to sweep over it, {key}=[{values}] for a list, or '{key}=\"{values}\"' for a text"
        )
    if found := re.match(r"Sweep parameters '(.*?)' requires --multirun", said):
        return f"{found[1]}: expected -m to sweep over it"
    return said


def _explain_plain(error: BaseException) -> str | None:
    """Hydra and OmegaConf let plain errors through where a value stands in the way of a key (`tags=[a] tags.x=1`) or a
    choice is no name (`mask=3`); None where it came from elsewhere.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames or frames[-1].f_globals.get("__package__", "").partition(".")[0] not in ("hydra", "omegaconf"):
        return None
    override = next((one for frame in frames if isinstance(one := frame.f_locals.get("override"), Override)), None)
    given = "settings" if override is None else shown(override.input_line)
    said = " ".join(str(error).split())
    return f"{given}: expected a name for a choice of conf/, and keys only where conf/ has them ({shown(said)})"


_KINDS: dict[type, str] = {
    IntegerNode: "a whole number",
    FloatNode: "a number",
    BooleanNode: "true or false",
    StringNode: "a text",
}


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield cause
        yield from _causes(cause)


def _known_keys(keys: Sequence[str] | None) -> Sequence[str]:
    if keys is not None:
        return keys
    from masked_sae.config import all_settings  # only now: it reads in torch

    return list(all_settings())


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
