"""Configurations of small runs, composed from conf/ as the command does."""

from pathlib import Path

from masked_sae.config import RunConfig
from support.architectures import PENALIZED
from support.making import HOOK, ROOT, compose

__all__ = ["ROOT", "small_config", "small_overrides"]


def small_overrides(lm: Path, corpus: Path, out: Path) -> list[str]:
    """Settings under which a run takes about a second: 24 steps of 64 activations, three windows."""
    return [
        f"lm.name={lm}",
        f"lm.hook_name={HOOK}",
        "lm.batch_size=8",
        "data=text",
        f"data.path={corpus}",
        f"data.store_dir={out / 'tokens'}",
        f"data.cache_dir={out / 'windows'}",
        "data.context_length=16",
        "data.batch_size=64",
        "data.train_tokens=1536",
        "data.window_tokens=512",
        "data.scale_tokens=256",
        "data.max_epochs=10",
        "data.validation_share=0.2",
        "sae.d_sae=64",
        "sae.k=4",
        "sae.aux_k=8",
        "sae.dead_after_tokens=256",
        "optim.warmup_steps=4",
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.log_every_steps=2",
        "trainer.checkpoint_every_steps=5",
        "trainer.validate_every_steps=8",
        "trainer.validation_tokens=64",
        "trainer.progress=false",
        "logger.wandb.mode=disabled",
        "eval.tokens=512",
        f"output_dir={out / 'runs'}",
    ]


def small_config(lm: Path, corpus: Path, out: Path, *overrides: str) -> RunConfig:
    settings = small_overrides(lm, corpus, out)
    if any(override in {f"sae={name}" for name in PENALIZED} for override in overrides):
        settings = [setting for setting in settings if not setting.startswith(("sae.k=", "sae.aux_k="))]
    return compose([*settings, *overrides])
