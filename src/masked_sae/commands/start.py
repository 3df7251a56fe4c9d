"""How each of Hydra's commands begins."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from masked_sae.bundled import command_name, own_version
from masked_sae.command_line import clear_errors
from masked_sae.commands.search_path import OwnConfigurationFirst

_OPTIONS = ("--config-path", "-cp")

OmegaConf.register_new_resolver("masked_sae.command", command_name, replace=True)  # in the text of --help


def start(
    command: Callable[[], None], arguments: Iterable[str], keys: Sequence[str] | None = None, more: Sequence[str] = ()
) -> None:
    """Starts a command with these arguments, in place of those that stood on the command line.

    Args:
        keys, more: as for `clear_errors`.
    """
    given = list(arguments)
    if "--version" in given:
        print(f"masked-sae {own_version()}")
        return
    sys.argv[1:] = [
        str(Path(argument).absolute()) if before in _OPTIONS else argument
        for before, argument in zip(["", *given], given, strict=False)  # Hydra would look from the command's own file
    ]
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.append(here)  # for modules of the user's own; `python -m` has it there
    with clear_errors(keys, more):
        Plugins.instance().register(OwnConfigurationFirst)
        command()
