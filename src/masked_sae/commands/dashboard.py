"""`dashboard sweep=FOLDER`: a saved W&B workspace of a sweep."""

import json
import sys

import hydra
from omegaconf import DictConfig

from masked_sae.command_line import clear_errors, named_folders, quoted, store_config
from masked_sae.commands.start import start
from masked_sae.errors import InputError

KEYS = store_config("dashboard")


@hydra.main(version_base=None, config_path=None, config_name="dashboard")
def _main(config: DictConfig) -> None:
    with clear_errors(KEYS):
        sweeps = named_folders("sweep", config.sweep, "a sweep's folder, such as runs/mask_rate")
        if not isinstance(config.dry_run, bool):
            raise InputError("dry_run", config.dry_run, "true or false")
        # Only now: these read in heavy libraries.
        from masked_sae.tracking.dashboard_server import connect, save, specification

        own_entity = None if config.dry_run else connect()
        from masked_sae.tracking.dashboard import read_dashboard

        workspace = read_dashboard(sweeps, config.entity, config.project, own_entity)
        print(json.dumps(specification(workspace), indent=2) if config.dry_run else save(workspace))


def main() -> None:
    start(_main, map(quoted, sys.argv[1:]), KEYS)
