"""Markdown in which everything that is filled in is text, unless it says otherwise."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from masked_sae.report.markdown import plain


class Markdown(str):
    """Text that is Markdown already."""


def fill(template: str, context: Mapping[str, Any]) -> str:
    """A template of this package, with values escaped."""
    environment = Environment(
        undefined=StrictUndefined, finalize=_escaped, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = (files("masked_sae.publishing") / template).read_text(encoding="utf-8")
    filled = environment.from_string(text).render({**context, "code": code, "block": block, "link": link})
    return re.sub(r"\n{3,}", "\n\n", filled)


def _escaped(value: object) -> str:
    return value if isinstance(value, Markdown) else plain(str(value))


def code(text: object) -> Markdown:
    """Within a line. A bar would end a table's cell even there."""
    line = " ".join(str(text).split())
    fence = "`" * (_longest_run(line) + 1)
    space = " " if "`" in line else ""
    return Markdown(f"{fence}{space}{line}{space}{fence}".replace("|", "\\|"))


def block(text: str, language: str = "") -> Markdown:
    fence = "`" * max(3, _longest_run(text) + 1)
    return Markdown(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def link(path: str) -> Markdown:
    """Where a file of the repository lies, for `[…](…)`."""
    return Markdown(quote(path))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markdown:
    lines = [columns, ["---"] * len(columns), *rows]
    return Markdown("\n".join("| " + " | ".join(_escaped(cell) or " " for cell in line) + " |" for line in lines))


def _longest_run(text: str) -> int:
    return max((len(found) for found in re.findall("`+", text)), default=0)
