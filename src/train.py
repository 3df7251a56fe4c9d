"""`python -m src.train`: trains one masked SAE; with `-m`, a sweep of them."""

import sys

import hydra
from omegaconf import DictConfig

from masked_sae.command_line import clear_errors, settings_together


@hydra.main(version_base=None, config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    with clear_errors():
        from masked_sae.config import check, typed_config  # only now: --help needs no torch

        settings = typed_config(config)
        check(settings)  # refuses what it can before the heavier libraries are read in
        from masked_sae.sweeps.local import train_alone

        train_alone(settings)


if __name__ == "__main__":
    sys.argv[1:] = settings_together(sys.argv[1:])
    with clear_errors():
        main()
