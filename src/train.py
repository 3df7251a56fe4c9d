"""`python -m src.train`: trains one masked SAE; with `-m`, a sweep of them."""

import hydra
from omegaconf import DictConfig

from masked_sae.commands import clear_errors, typed_config


@hydra.main(version_base=None, config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    with clear_errors():
        settings = typed_config(config)
        from masked_sae.sweeping import train_alone

        train_alone(settings)


if __name__ == "__main__":
    with clear_errors():
        main()
