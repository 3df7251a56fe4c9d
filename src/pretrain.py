"""`python -m src.pretrain`: trains the embedded LM on the running Python's standard library."""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from masked_sae.command_line import clear_errors, quoted


@hydra.main(version_base=None, config_path="../conf", config_name="pretrain")
def main(config: DictConfig) -> None:
    with clear_errors([str(key) for key in config]):
        from masked_sae.activations.pretraining import PretrainConfig, pretrain  # only now: --help needs no torch

        typed = OmegaConf.merge(OmegaConf.structured(PretrainConfig), config)
        settings = OmegaConf.to_object(typed)
        assert isinstance(settings, PretrainConfig)
        pretrain(settings)


if __name__ == "__main__":
    sys.argv[1:] = map(quoted, sys.argv[1:])
    with clear_errors([]):
        main()
