"""Settings as dataclasses: neutral values, and concepts that are found by their name, here or in a user's own module.

An architecture or a mask is a module with a dataclass `Settings`, a metric family is one with a `FAMILY`. Ours are the
modules of a package and have their names; a user's is named by `_module_` among its settings.
"""

import copy
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from masked_sae.errors import InputError

_NEUTRAL = "neutral"


@dataclass(kw_only=True)
class OwnModule:
    """Settings of what may be a user's own.

    Attributes:
        _module_: the importable module that it is in; None: one of ours, by its name.
    """

    _module_: str | None = field(default=None, metadata={_NEUTRAL: None})


def setting(default: Any = MISSING, *, label: str = "", unit: str = "", sparsity: bool = False) -> Any:
    """A field of settings, with the words that tables and the report use.

    Args:
        label: what it is called; by default by the last part of its key.
        sparsity: whether it makes SAEs sparser or less so; the report tells sparsities apart by these.
    """
    return field(default=default, metadata={"label": label, "unit": unit, "sparsity": sparsity})


def neutral(value: Any, *, label: str = "", unit: str = "", cure: bool = False) -> Any:
    """The default of a setting that was added later: a value at which everything is as if there were no such setting,
    so that runs made before keep their names.

    Args:
        label, unit: as of `setting`.
        cure: whether it is meant to cure what masking is; the report compares runs by it as it does by their masks.
    """
    words = {"label": label, "unit": unit, "cure": cure} if label or unit or cure else {}
    return field(default_factory=partial(copy.copy, value), metadata={_NEUTRAL: value, **words})


def is_neutral(value: Any, words: Mapping[str, Any]) -> bool:
    """Whether a setting is at the value at which there might be no such setting."""
    return _NEUTRAL in words and value == words[_NEUTRAL]


def cures_of(settings: Any) -> dict[str, Any]:
    """Of a dataclass's settings those that are to cure what masking is to, and are not at their neutral value."""
    cures = [one for one in fields(settings) if one.metadata.get("cure")]
    found = [(one.name, getattr(settings, one.name), one.metadata) for one in cures]
    return {name: value for name, value, words in found if not is_neutral(value, words)}


def without_neutral(settings: Any) -> Any:
    """As `dataclasses.asdict`, without the settings that are at their neutral value."""
    if is_dataclass(settings):
        found = {one.name: (getattr(settings, one.name), one.metadata) for one in fields(settings)}
        return {
            name: without_neutral(value)
            for name, (value, metadata) in found.items()
            if _NEUTRAL not in metadata or value != metadata[_NEUTRAL]
        }
    if isinstance(settings, Mapping):
        return {key: without_neutral(value) for key, value in cast(Mapping[str, Any], settings).items()}
    if isinstance(settings, (list, tuple)):
        return [without_neutral(value) for value in cast(list[Any], settings)]
    return settings


def dotted(kind: type, prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """The keys of settings, those of settings within settings included, with the words that each has."""
    found: dict[str, Mapping[str, Any]] = {}
    for one in fields(kind):
        if isinstance(one.type, type) and is_dataclass(one.type):
            found |= dotted(one.type, f"{prefix}{one.name}.")
        else:
            found[f"{prefix}{one.name}"] = one.metadata
    return found


def leaves(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The single values of settings, each with its key; what is in a list has the list's."""
    if isinstance(settings, (list, tuple)):
        for value in cast(Sequence[Any], settings):
            for _, leaf in leaves(value):
                yield key, leaf
        return
    values: Mapping[Any, Any]
    if is_dataclass(settings):
        values = {one.name: getattr(settings, one.name) for one in fields(settings)}
    elif isinstance(settings, Mapping):
        values = cast(Mapping[Any, Any], settings)
    else:
        yield key, settings
        return
    for name, value in values.items():
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def find_ours(package: str, attribute: str, key: str, name: object) -> Any:
    """What our module of this name calls `attribute`.

    Args:
        package: that ours are in.
        key: of the configuration, that has the name.

    Raises:
        InputError: there is none.
    """
    ours = names(package, attribute)
    if name not in ours:
        raise InputError(key, name, f"one of {', '.join(ours)}, or one of your own by its _module_")
    return getattr(importlib.import_module(f"{package}.{name}"), attribute)


def find_own(module: str, attribute: str, key: str, fits: Callable[[Any], bool]) -> Any:
    """What a user's own module calls `attribute`.

    Args:
        key: of the configuration, that names the module.
        fits: whether it is what it should be.

    Raises:
        InputError: there is no such module, or nothing in it that fits.
    """
    try:
        imported = importlib.import_module(str(module))
    except (ImportError, ValueError, TypeError) as error:
        raise InputError(key, module, f"a module that can be imported from here ({error})") from error
    found = getattr(imported, attribute, None)
    if not fits(found):
        raise InputError(key, module, f"a module with {attribute} of the kind that docs/extending.md shows for it")
    return found


def is_kind(found: Any, kind: type) -> bool:
    """Whether it is a class derived from `kind`."""
    return isinstance(found, type) and issubclass(found, kind)


def makes(found: Any, kind: Any) -> bool:
    """Whether it is a class derived from `kind` that says what it makes."""
    return is_kind(found, kind) and found.make is not kind.make


def names(package: str, attribute: str) -> list[str]:
    """Of ours, by letter."""
    return [name for name, _ in modules(package, attribute)]


@cache
def modules(package: str, attribute: str) -> tuple[tuple[str, Any], ...]:
    """Names and `attribute` of a package's modules that have it, by letter."""
    ours = [found.name for found in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    found = [(name, getattr(importlib.import_module(f"{package}.{name}"), attribute, None)) for name in ours]
    return tuple((name, value) for name, value in found if value is not None)


def own_modules(settings: Any) -> dict[str, tuple[str, str]]:
    """The users' modules that these settings name: by the key that does, name and digest."""
    return {key: (module, _digest(module)) for key, module in sorted(_named(settings))}


def _named(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    values: Mapping[str, Any] = settings
    if is_dataclass(settings):
        values = {one.name: getattr(settings, one.name) for one in fields(settings)}
    for name, value in values.items():
        if name == "_module_" and value is not None:
            yield f"{prefix}{name}", value
        elif is_dataclass(value) or isinstance(value, Mapping):
            yield from _named(value, f"{prefix}{name}.")


def _digest(module: str) -> str:
    """Of its source; of a package, all that is in it."""
    path = Path(getattr(importlib.import_module(module), "__file__", None) or "")
    sources = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.blake2b(digest_size=16)
    for source in sources:
        if source.is_file():
            digest.update(source.read_bytes())
    return digest.hexdigest()


def recorded(kind: type, values: Mapping[str, Any]) -> Any:
    """Settings as a run's folder has them. Nothing is imported that the folder names; keys that another version wrote
    are passed over, and None stands for what it did not write.
    """
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    known = {one.name: values[one.name] for one in fields(kind) if one.name in values}
    return kind(**{**dict.fromkeys(needed), **known})
