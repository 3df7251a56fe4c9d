"""The configuration that `src.train` has without settings, to tell what a sweep changed."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra

from masked_sae.commands import typed_config
from masked_sae.report.runs import flat

_CONF = Path(__file__).resolve().parents[3] / "conf"


def train_defaults(choices: Sequence[str]) -> dict[str, Any] | None:
    """Flat, by dotted key; None where `conf/` is not beside the code.

    Args:
        choices: of options, as `sae=gated`.
    """
    if not (_CONF / "train.yaml").exists():
        return None
    GlobalHydra.instance().clear()  # a command that Hydra started has one, and needs it no more
    with hydra.initialize_config_dir(str(_CONF), version_base=None):
        return dict(flat(asdict(typed_config(hydra.compose("train", list(choices))))))
