"""`python -m src.prepare`: has what a run needs before it is trained, and tells where its LM can be read."""

import sys

import hydra
from omegaconf import DictConfig

from masked_sae.command_line import clear_errors, quoted


@hydra.main(version_base=None, config_path="../conf", config_name="prepare")
def main(config: DictConfig) -> None:
    with clear_errors():
        from masked_sae.config import check, typed_config  # only now: --help needs no torch

        settings = typed_config(config)
        check(settings)
        from masked_sae.training.prepare import prepare  # only now: it reads in heavy libraries

        print(*prepare(settings), sep="\n")


if __name__ == "__main__":
    sys.argv[1:] = map(quoted, sys.argv[1:])
    with clear_errors():
        main()
