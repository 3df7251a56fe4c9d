"""What an evaluation keeps on disk is not taken for what another version of the LM's library computes."""

from pathlib import Path

import pytest

from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import make_sequences
from masked_sae.training import evaluation
from support.making import compose, distinct_tokens


def test_activations_on_disk_are_another_librarys_no_more_than_another_lms(
    neox: LM, neox_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose([f"lm.name={neox_folder}"])
    held_out = make_sequences(distinct_tokens(100), 16, neox.special)
    here = evaluation.make_context(config, neox, held_out).cache.lm_key
    assert here == evaluation.make_context(config, neox, held_out).cache.lm_key
    monkeypatch.setattr(evaluation, "version", lambda package: "4.3.0")
    assert evaluation.make_context(config, neox, held_out).cache.lm_key != here
