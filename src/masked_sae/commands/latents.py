"""`latents run=FOLDER`: pages of a run's latents and of what they absorb, also against another run."""

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from masked_sae.bundled import CONF
from masked_sae.command_line import clear_errors, named_folders, quoted
from masked_sae.commands.start import start
from masked_sae.errors import InputError

KEYS = ("run", "against", "tokens", "contexts")


@hydra.main(version_base=None, config_path=str(CONF), config_name="latents")
def _main(config: DictConfig) -> None:
    with clear_errors(more=KEYS):
        with open_dict(config):
            asked = {key: config.pop(key) for key in KEYS}
        if asked["run"] is None:
            raise InputError("run", None, "the folder of a run: run=FOLDER")
        folder = _folder("run", asked["run"])
        against = None if asked["against"] is None else _folder("against", asked["against"])
        from masked_sae.config import check_measuring, typed_config  # only now: --help needs no torch
        from masked_sae.latents.build import PageSettings, write_pages

        settings = typed_config(config)
        check_measuring(settings)
        page = PageSettings(tokens=asked["tokens"], contexts=asked["contexts"])
        page.check()
        print(*write_pages(folder, settings, HydraConfig.get().overrides.task, page, against), sep="\n")


def _folder(key: str, named: Any) -> Path:
    folders = named_folders(key, named, "the folder of a run")
    if len(folders) > 1:
        raise InputError(key, named, "the folder of one run")
    return folders[0]


def main() -> None:
    start(_main, map(quoted, sys.argv[1:]), more=KEYS)
