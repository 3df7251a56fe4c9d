"""`latents.html`, and the folder of data beside it."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

from jinja2 import Environment, StrictUndefined

from masked_sae.files import folder_aside, write_text
from masked_sae.latents.columns import BARS, Latents, Tokens, index_columns, latent_columns
from masked_sae.latents.data_files import write_script

PAGE, DATA = "latents.html", "latents_data"
_IN_A_FILE = 256  # latents
_OF_THE_PAGE = ("loading.js", "list.js", "page.js", "page.css")


def write_page(folder: Path, latents: Latents, facts: Mapping[str, Any]) -> Path:
    """Writes the data first, then the page. Either names the other by a stamp, so that a page whose data is another's
    says so.

    Args:
        facts: what the page's head says.

    Returns:
        The page.
    """
    stamp = uuid4().hex
    with folder_aside(folder / DATA, replace=True) as aside:
        _write_data(aside, latents, stamp)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = (files("masked_sae.latents") / "template.html").read_text(encoding="utf-8")
    write_text(folder / PAGE, environment.from_string(template).render(facts, stamp=stamp, data=DATA))
    return folder / PAGE


def _write_data(folder: Path, latents: Latents, stamp: str) -> None:
    here = files("masked_sae.latents")
    for name in _OF_THE_PAGE:
        (folder / name).write_text((here / name).read_text(encoding="utf-8"), encoding="utf-8")
    tokens = Tokens(latents.token_texts)
    activity = latents.activity
    count, contexts, width = activity.top.window_FKW.shape
    sizes = {"latents": count, "contexts": contexts, "width": width, "bars": BARS, "inAFile": _IN_A_FILE}
    sizes["neighbours"] = latents.by_decoder.latent_FM.shape[1]
    sizes["effects"] = 0 if latents.effects is None else latents.effects.raised_FM.shape[1]
    more = sizes | {"stamp": stamp, "tokens": activity.tokens}
    write_script(folder, "index", index_columns(latents, tokens), more)
    write_script(folder, "text", {"text": tokens.places(latents.text_U)}, {"tokens": tokens.texts})
    for number, first in enumerate(range(0, count, _IN_A_FILE)):
        some = slice(first, first + _IN_A_FILE)
        write_script(folder, f"latents-{number}", latent_columns(latents, tokens, some), {})
