"""`python -m src.report sweep=FOLDER`: what a sweep showed, from its run folders alone."""

from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from masked_sae.commands import clear_errors
from masked_sae.errors import InputError

# Not through config_path: beside conf/sweep, a folder of choices, Hydra would take `sweep=FOLDER` for one of them.
ConfigStore.instance().store("report", OmegaConf.load(Path(__file__).parents[1] / "conf" / "report.yaml"))


@hydra.main(version_base=None, config_path=None, config_name="report")
def main(config: DictConfig) -> None:
    with clear_errors():
        named = config.sweep
        sweeps = [Path(str(name)).expanduser() for name in (named if isinstance(named, ListConfig) else [named])]
        for sweep in sweeps:
            if not sweep.is_dir():  # before the heavy libraries are read in
                raise InputError("sweep", sweep, "a sweep's folder, such as runs/mask_rate")
        if not isinstance(config.figures, bool):
            raise InputError("figures", config.figures, "true or false")
        from masked_sae.report.build import write_report
        from masked_sae.report.defaults import train_defaults

        output_dir = None if config.output_dir is None else Path(str(config.output_dir)).expanduser()
        print(write_report(sweeps, output_dir, figures=config.figures, defaults=train_defaults()))


if __name__ == "__main__":
    with clear_errors():
        main()
