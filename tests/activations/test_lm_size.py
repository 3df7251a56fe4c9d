"""How large an LM is by its files, against the LM itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from masked_sae.activations.lm import load_lm
from masked_sae.activations.lm_size import lm_size
from masked_sae.activations.settings import LMSettings
from support.making import HOOK


@pytest.mark.parametrize("hook_name", [HOOK, "blocks.1.mlp.hook_out"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_lms_own_size(neox_folder: Path, hook_name: str, dtype: str) -> None:
    lm = load_lm(str(neox_folder), hook_name, dtype)
    size = lm_size(LMSettings(name=str(neox_folder), hook_name=hook_name, dtype=dtype, batch_size=4), 4, 16)
    assert size is not None
    held = sum(parameter.nbytes for parameter in lm.bridge.original_model.parameters())
    assert held <= size.weights <= 1.3 * held
    assert size.d_in == lm.d_in
    assert size.forward > 4 * 4 * 16 * lm.vocab_size


def test_weights_still_to_be_downloaded_are_as_large_as_their_index_says_and_else_unknown(
    neox_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(neox_folder, tmp_path / "lm")
    settings = LMSettings(name=str(folder), hook_name=HOOK, dtype="float32", batch_size=4)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1234}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    size = lm_size(settings, 4, 16)
    assert size is not None and size.weights == int(1.25 * 1234)
    (folder / "config.json").unlink()
    assert lm_size(settings, 4, 16) is None
    assert lm_size(replace(settings, name=str(tmp_path / "nowhere")), 4, 16) is None
