"""`pretrain`: trains the embedded LM on the running Python's standard library."""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from masked_sae.bundled import CONF
from masked_sae.command_line import clear_errors, quoted
from masked_sae.commands.start import start


@hydra.main(version_base=None, config_path=str(CONF), config_name="pretrain")
def _main(config: DictConfig) -> None:
    with clear_errors([str(key) for key in config]):
        from masked_sae.activations.pretraining import PretrainConfig, pretrain  # only now: --help needs no torch

        typed = OmegaConf.merge(OmegaConf.structured(PretrainConfig), config)
        settings = OmegaConf.to_object(typed)
        assert isinstance(settings, PretrainConfig)
        pretrain(settings)


def main() -> None:
    start(_main, map(quoted, sys.argv[1:]), [])
