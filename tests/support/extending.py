"""The examples of docs/extending.md, as files in a folder of somebody's own."""

import os
import re
from pathlib import Path

from support.making import ROOT

_FILE = re.compile(r"^`([\w/.]+\.(?:py|yaml))`\n\n```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> dict[str, str]:
    """Texts by path."""
    return dict(_FILE.findall((ROOT / "docs" / "extending.md").read_text()))


def write_examples(folder: Path) -> Path:
    for name, text in examples().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def outside() -> dict[str, str]:
    """What the page says has to be set: the checkout is on the path; a folder of one's own is by being started in."""
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
