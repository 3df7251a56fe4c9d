"""Time in blocks, and in no others."""

import time

import pytest
import torch

from masked_sae.activations.stopwatch import Stopwatch


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_time_in_blocks_counts_even_when_one_fails(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    watch = Stopwatch(torch.device(device))
    assert watch.seconds == 0
    with watch:
        time.sleep(0.02)
        assert watch.seconds == 0  # of a block that is open
    time.sleep(0.2)
    once = watch.seconds
    assert 0.02 <= once < 0.2
    with pytest.raises(KeyError), watch:
        time.sleep(0.02)
        raise KeyError
    assert watch.seconds >= once + 0.02
    assert watch.seconds == watch.seconds
