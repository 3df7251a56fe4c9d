"""`python -m src.train`: trains one masked SAE; with `-m`, a sweep of them."""

import sys

import hydra
from omegaconf import DictConfig

from masked_sae.commands import clear_errors, flags_last, typed_config
from masked_sae.config import check


@hydra.main(version_base=None, config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    with clear_errors():
        settings = typed_config(config)
        check(settings)  # quick refusals, before the heavy libraries are read in
        from masked_sae.sweeps.local import train_alone

        train_alone(settings)


if __name__ == "__main__":
    sys.argv[1:] = flags_last(sys.argv[1:])
    with clear_errors():
        main()
