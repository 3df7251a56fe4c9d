"""`report sweep=FOLDER`: what a sweep showed, from its run folders alone."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from masked_sae.command_line import clear_errors, named_folders, quoted, store_config
from masked_sae.commands.start import start
from masked_sae.errors import InputError

KEYS = store_config("report")


@hydra.main(version_base=None, config_path=None, config_name="report")
def _main(config: DictConfig) -> None:
    with clear_errors(KEYS):
        sweeps = named_folders("sweep", config.sweep, "a sweep's folder, such as runs/mask_rate")
        if not isinstance(config.figures, bool):
            raise InputError("figures", config.figures, "true or false")
        # Only now: these read in heavy libraries.
        from masked_sae.report.build import write_report

        output_dir = None if config.output_dir is None else Path(str(config.output_dir)).expanduser()
        print(write_report(sweeps, output_dir, figures=config.figures))


def main() -> None:
    start(_main, map(quoted, sys.argv[1:]), KEYS)
