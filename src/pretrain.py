"""`python -m src.pretrain`: trains the embedded LM on the running Python's standard library."""

import hydra
from omegaconf import DictConfig, OmegaConf


@hydra.main(version_base=None, config_path="../conf", config_name="pretrain")
def main(config: DictConfig) -> None:
    from masked_sae.activations.pretraining import PretrainConfig, pretrain

    typed = OmegaConf.merge(OmegaConf.structured(PretrainConfig), config)
    settings = OmegaConf.to_object(typed)
    assert isinstance(settings, PretrainConfig)
    pretrain(settings)


if __name__ == "__main__":
    main()
