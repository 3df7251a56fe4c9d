"""`TransformerBridge`, called: the one place that knows how."""

import logging
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def mapped(device_map: str) -> dict[str, Any]:
    """`lm.device_map` as `TransformerBridge` takes it, which has accelerate lay the LM out and carry what lies between
    the devices.
    """
    return {"n_devices": int(device_map)} if device_map.isdigit() else {"device_map": device_map}


def boot(folder: Path, dtype: str, where: Mapping[str, Any], reading: Callable[[Any], Any]) -> Any:
    """A `TransformerBridge` of a folder with a configuration and a tokenizer.

    Args:
        where: `device`, or what `mapped` gives.
        reading: given the library's class of models, what makes the model in its place.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import transformers as source
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model_class = source.get_hf_model_class_for_architecture(source.determine_architecture_from_hf_config(config))
    with _quiet():
        return TransformerBridge.boot_transformers(
            str(folder),
            dtype=getattr(torch, dtype),
            **where,
            model_class=reading(model_class),  # of a class it calls from_pretrained alone
        )


@contextmanager
def _quiet() -> Generator[None]:
    """Has the libraries that load an LM keep bars, advice and reports to themselves: what matters is an exception."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger().setLevel(logging.WARNING)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
