"""`prepare`: has what a run needs before it is trained, and tells where its LM can be read."""

import sys

import hydra
from omegaconf import DictConfig

from masked_sae.bundled import CONF
from masked_sae.command_line import clear_errors, quoted
from masked_sae.commands.start import start


@hydra.main(version_base=None, config_path=str(CONF), config_name="prepare")
def _main(config: DictConfig) -> None:
    with clear_errors():
        from masked_sae.config import check, typed_config  # only now: --help needs no torch

        settings = typed_config(config)
        check(settings)
        from masked_sae.training.prepare import prepare  # only now: it reads in heavy libraries

        print(*prepare(settings), sep="\n")


def main() -> None:
    start(_main, map(quoted, sys.argv[1:]))
