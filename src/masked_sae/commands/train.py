"""`train`: trains one masked SAE; with `-m`, a sweep of them."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from masked_sae.bundled import CONF
from masked_sae.command_line import clear_errors, settings_together
from masked_sae.commands.start import start
from masked_sae.errors import InputError


@hydra.main(version_base=None, config_path=str(CONF), config_name="train")
def _main(config: DictConfig) -> None:
    with clear_errors():
        _refuse_sweep_of_one()
        from masked_sae.config import check, typed_config  # only now: --help needs no torch

        settings = typed_config(config)
        check(settings)  # refuses what it can before the heavier libraries are read in
        if settings.plan:
            from masked_sae.planning.show import plan_alone

            plan_alone(settings)
            return
        from masked_sae.sweeps.local import train_alone

        train_alone(settings)


def _refuse_sweep_of_one() -> None:
    """A sweep's file without `-m` would train one run into the sweep's folder."""
    hydra_config = HydraConfig.get()
    if hydra_config.sweeper.get("params") or hydra_config.sweeper.get("arms"):
        name = hydra_config.runtime.choices.get("sweep")
        raise InputError("+sweep", name, "-m on the same command line: without it there would be one run, not a sweep")


def main() -> None:
    start(_main, settings_together(sys.argv[1:]))
