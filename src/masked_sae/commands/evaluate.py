"""`evaluate sae=FOLDER` or `sweep=FOLDER`: metrics of SAEs that are there."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from masked_sae.bundled import CONF
from masked_sae.command_line import clear_errors, named_folders, named_texts, quoted, renamed
from masked_sae.commands.start import start
from masked_sae.errors import InputError

# Hydra takes `sae=` and `sweep=` for choices from conf/sae and conf/sweep.
FOLDERS = {"sae": "sae_folder", "sweep": "sweep_folder"}


@hydra.main(version_base=None, config_path=str(CONF), config_name="evaluate")
def _main(config: DictConfig) -> None:
    with clear_errors(more=tuple(FOLDERS)):
        with open_dict(config):
            folders = {key: config.pop(name) for key, name in FOLDERS.items()}
        from masked_sae.config import check, typed_config  # only now: --help needs no torch

        settings = typed_config(config)
        check(settings)
        given = [key for key, folder in folders.items() if folder is not None]
        if len(given) != 1:
            raise InputError("sae", folders["sae"], "either sae=FOLDER or sweep=FOLDER")
        (kind,) = given
        if kind == "sweep":
            found = named_folders("sweep", folders["sweep"])
        else:
            found = named_texts("sae", folders["sae"], "a folder that exists, or a name on the hub")
        from masked_sae.sweeps.evaluate import evaluate_folders  # only now: it reads in heavy libraries

        evaluate_folders(kind, found, settings, HydraConfig.get().overrides.task)


def main() -> None:
    start(_main, map(quoted, renamed(sys.argv[1:], FOLDERS)), more=tuple(FOLDERS))
