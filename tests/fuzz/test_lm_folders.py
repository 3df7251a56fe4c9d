"""Whatever lies in an LM's folder: it is loaded, and known to be another where it computes another thing, or one line
says what is wrong.
"""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masked_sae.activations.lm import LM, load_lm
from masked_sae.errors import InputError, NonFiniteError
from masked_sae.lm_files import lm_digest
from masked_sae.text.tokenizer import load_tokenizer, tokenizer_digest
from support.damage import Damage, damages
from support.making import HOOK

QUICK, LONG = 30, 300
EVERYWHERE = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def loads_or_one_line(original: Path, lm: LM, place: Path, which: float, damage: Damage) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(original, place)
    files = sorted(place.iterdir())
    path = files[min(int(which * len(files)), len(files) - 1)]
    damage.do(path)
    try:
        name = str(place)
        same = (lm_digest(name), tokenizer_digest(load_tokenizer(name))) == known(original)
        damaged = load_lm(name, HOOK)
        tokens_NT = torch.arange(1, 41).view(4, 10)
        x_NTD = damaged.activations(tokens_NT)
    except (InputError, NonFiniteError) as error:
        assert "\n" not in str(error) and str(error).startswith(("lm.name=", "lm.hook_name=")), f"{path.name}: {damage}"
        return
    if same:
        assert torch.equal(x_NTD, lm.activations(tokens_NT)), f"{path.name}: {damage}"


def known(folder: Path) -> tuple[str, str]:
    return lm_digest(str(folder)), tokenizer_digest(load_tokenizer(str(folder)))


@pytest.mark.slow
@settings(max_examples=QUICK, **EVERYWHERE)
@given(st.floats(0, 1), damages)
def test_of_a_causal_lm(neox_folder: Path, neox: LM, tmp_path: Path, which: float, damage: Damage) -> None:
    loads_or_one_line(neox_folder, neox, tmp_path / "lm", which, damage)


@pytest.mark.long
@pytest.mark.timeout(1200)
@settings(max_examples=LONG, **EVERYWHERE)
@given(st.booleans(), st.floats(0, 1), damages)
def test_of_either_at_length(
    neox_folder: Path, bert_folder: Path, neox: LM, bert: LM, tmp_path: Path, causal: bool, which: float, damage: Damage
) -> None:
    folder, lm = (neox_folder, neox) if causal else (bert_folder, bert)
    loads_or_one_line(folder, lm, tmp_path / "lm", which, damage)
