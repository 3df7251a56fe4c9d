"""What a run's files tell of the machine and the accounts it was made with, taken out before others read them."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from masked_sae.runs.identity import HOW, is_part_of

# Settings of where, and in whose name: as conf/ has them, so that a configuration can still be run.
_OF_THE_MAKER: Mapping[str, Any] = {
    "output_dir": "runs",
    "data.store_dir": ".cache/tokens",
    "data.cache_dir": ".cache/windows",
    "eval.cache_dir": ".cache/activations",
    "logger.wandb.entity": None,
    "logger.wandb.project": "masked-sae",
    "logger.wandb.tags": [],
}
LEFT_OUT = (
    "Folders of the machine that it was made on (of a path the last part is left), the W&B entity, project and tags, "
    "host names, process and job numbers, logs, checkpoints."
)
_PLACE = re.compile(r"(?:file:|~[\w.-]*[/\\]|\.\.[/\\]|[A-Za-z]:[/\\]|[/\\]).+")
_PLACE_WITHIN = re.compile(r"(?<![\w.:/\\~-])(?:~[\w.-]*/|/[\w.@+%~-]+/)[\w.@+%~/-]*")
_SHORTEST = 4  # of a folder's name that is looked for: `/` is in every text


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A nested configuration without what is of its maker alone."""
    public = public_values(settings)
    for key, value in _OF_THE_MAKER.items():
        *parents, last = key.split(".")
        holder: Any = public
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and last in holder:
            holder[last] = value
    return public


def public_values(value: Any) -> Any:
    """Values as JSON has them, of each path in them the last part."""
    if isinstance(value, str):
        return public_text(value)
    if isinstance(value, Mapping):
        return {key: public_values(one) for key, one in cast(Mapping[str, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [public_values(one) for one in cast(Sequence[Any], value)]
    return value


def public_text(text: str) -> str:
    if _PLACE.fullmatch(text):
        return _last_part(text)
    return _PLACE_WITHIN.sub(lambda found: _last_part(found[0]), text)


def public_command(words: Sequence[str]) -> list[str]:
    """What stood on a command line, without what only says where and how."""
    kept = [word for word in words if not is_part_of(word.lstrip("+~").partition("=")[0], HOW)]
    return [public_text(word) for word in kept]


def _last_part(place: str) -> str:
    return re.split(r"[/\\]", place.rstrip("/\\"))[-1] or place


def private_places(folders: Sequence[Path]) -> tuple[str, ...]:
    """What no published file may name: the user's home, the working folder, and where these folders lie."""
    found = [Path.home(), Path.cwd(), *(folder.resolve().parent for folder in folders)]
    return tuple(dict.fromkeys(text for one in found if len(text := str(one)) > _SHORTEST and text != "/tmp"))


def names_a_place(file: Path, places: Sequence[str]) -> bool:
    content = file.read_bytes()
    return any(form.encode() in content for place in places for form in {place, html.escape(place)})
