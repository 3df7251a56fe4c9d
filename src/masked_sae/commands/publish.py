"""`publish run=FOLDER repo=NAME`: a run or a sweep on the Hugging Face hub, or in a folder as there."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from masked_sae.command_line import clear_errors, named_folders, quoted, store_config
from masked_sae.commands.start import start
from masked_sae.errors import InputError

KEYS = store_config("publish")


@hydra.main(version_base=None, config_path=None, config_name="publish")
def _main(config: DictConfig) -> None:
    with clear_errors(KEYS):
        given = [key for key in ("run", "sweep") if config[key] is not None]
        if len(given) != 1:
            raise InputError("run", config.run, "either run=FOLDER or sweep=FOLDER")
        (folder,) = named_folders(given[0], str(config[given[0]]))
        if not isinstance(config.private, bool):
            raise InputError("private", config.private, "true or false")
        if not isinstance(config.dry_run, bool):
            raise InputError("dry_run", config.dry_run, "true or false")
        # Only now: these read in heavy libraries.
        from masked_sae.publishing.publish import Request, publish

        output_dir = None if config.output_dir is None else Path(str(config.output_dir)).expanduser()
        license = None if config.license is None else str(config.license)
        sweep, repo = given == ["sweep"], str(config.repo)
        asked = Request(folder, sweep, repo, config.private, license, config.dry_run, output_dir)
        print(*publish(asked), sep="\n")


def main() -> None:
    start(_main, map(quoted, sys.argv[1:]), KEYS)
