"""Held-out sequences: which serve for what, and that batches lose and add none."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from masked_sae.activations.held_out import (
    activation_batches,
    sequences_drawn,
    sequences_of_all,
    sequences_to_calibrate,
    sequences_to_measure,
)
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences, make_sequences
from masked_sae.text.tokenizer import SpecialTokens
from support.making import distinct_tokens


def held_out_of(n_sequences: int) -> Sequences:
    """Sequences of 15 tokens and one special one."""
    return make_sequences(distinct_tokens(15 * n_sequences), 16, SpecialTokens((0,), (), None, (0,)))


def test_no_sequence_both_calibrates_and_measures() -> None:
    held_out = held_out_of(40)
    measured = sequences_to_measure(held_out, 10**6).tolist()
    calibrated = sequences_to_calibrate(held_out, 10**6).tolist()
    assert calibrated == list(range(3, 40, 4))
    assert sorted([*measured, *calibrated]) == list(range(40))


def test_other_choices_are_of_all_sequences() -> None:
    held_out = held_out_of(40)
    assert sequences_of_all(held_out, 10**6).tolist() == list(range(40))
    assert sorted(sequences_drawn(held_out, 10**6, np.random.default_rng(0)).tolist()) == list(range(40))


@pytest.mark.parametrize("choose", [sequences_to_measure, sequences_to_calibrate, sequences_of_all])
def test_a_few_sequences_are_spread_from_the_first_to_the_last(
    choose: Callable[[Sequences, int], NDArray[np.int64]],
) -> None:
    held_out = held_out_of(400)
    all_of_them, few = choose(held_out, 10**6), choose(held_out, 5 * 15 - 3)
    assert len(few) == 5  # enough for the tokens, and none more
    assert few[0] == all_of_them[0] and few[-1] == all_of_them[-1]
    assert np.diff(few).min() > 90


def test_a_text_too_short_to_divide_serves_for_both() -> None:
    held_out = held_out_of(3)
    assert (
        sequences_to_calibrate(held_out, 10**6).tolist() == sequences_to_measure(held_out, 10**6).tolist() == [0, 1, 2]
    )


def test_drawn_sequences_follow_the_generator() -> None:
    held_out = held_out_of(40)
    first, again, other = (sequences_drawn(held_out, 100, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1))
    assert len(first) == 7 and len(set(first)) == 7
    assert first == again != other


def test_batches_hold_the_activations_at_kept_positions_in_order(neox: LM) -> None:
    held_out = make_sequences(distinct_tokens(150), 16, neox.special)
    indices = np.array([7, 1, 4, 0, 2])
    with torch.inference_mode():
        tokens_NT, kept_NT = held_out.read(indices)
        x_BD = neox.activations(tokens_NT)[kept_NT]
        batches = list(activation_batches(neox, held_out, indices, 2))
    assert [batch.first for batch in batches] == [0, 2, 4]
    assert torch.equal(torch.cat([batch.tokens_NT for batch in batches]), tokens_NT)
    assert torch.equal(torch.cat([batch.kept_NT for batch in batches]), kept_NT)
    torch.testing.assert_close(torch.cat([batch.x_BD for batch in batches]), x_BD)
