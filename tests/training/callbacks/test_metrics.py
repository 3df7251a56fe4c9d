"""What a training step's row says of time and memory."""

import csv
from pathlib import Path

import pytest
import torch

from masked_sae.runs.curve import COLUMNS, VALIDATED
from masked_sae.runs.run import make_run
from masked_sae.training.callbacks.metrics import peak_memory
from masked_sae.training.train_run import train_run
from support.composing import small_config


def test_the_lms_time_shows_in_the_rows_whose_steps_began_a_window(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    config = small_config(neox_folder, corpus_folder, tmp_path)
    train_run(make_run(config, {}))
    with make_run(config, {}).folder.metrics.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "tokens", *COLUMNS, *VALIDATED]
    shares = {int(row["step"]): float(row["lm_time_share"]) for row in rows}
    assert [step for step, share in shares.items() if share > 0] == [2, 10, 18]  # a window is eight steps
    assert max(shares.values()) <= 1
    peaks = [float(row["peak_memory_gib"]) for row in rows]
    assert peaks == sorted(peaks) and 0.05 < peaks[0] < 100


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says it there")
def test_peak_memory_is_what_the_kernel_says_of_this_process() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert peak_memory(torch.device("cpu")) == pytest.approx(int(status["VmHWM"].split()[0]) * 1024, rel=0.05)
