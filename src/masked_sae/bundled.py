"""What comes with the library, and how its commands are called: of an installed package, of a checkout, or of a copy of
either that jobs run from.

`conf/` and `assets/` lie inside an installed package, and beside `src/` otherwise.
"""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = (PACKAGE / "conf").is_dir()
CONF = (PACKAGE if INSTALLED else PACKAGE.parents[1]) / "conf"
# A job's copy of the code has no embedded LMs: whoever submits it says where they are.
ASSETS_VARIABLE = "MASKED_SAE_ASSETS"
ASSETS = Path(os.environ.get(ASSETS_VARIABLE) or CONF.with_name("assets"))


def find_folder(name: str) -> Path:
    """A folder as it is named from the working folder; `assets/NAME`, where there is none, is that of the library."""
    here = Path(name).expanduser()
    if here.parts[:-1] != ("assets",) or here.is_dir():
        return here
    ours = ASSETS / here.name
    return ours if ours.is_dir() else here


def command_name(name: str) -> str:
    """How a command is started here: `python -m src.train` in a checkout."""
    return f"masked-sae-{name}" if INSTALLED else f"python -m src.{name}"


def own_version() -> str:
    try:
        return version("masked-sae")
    except PackageNotFoundError:
        return "not installed"
