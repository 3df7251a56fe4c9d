"""The memory that a plan tells, against what a process that trains takes besides what it had when idle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from masked_sae.planning.memory import memory_of
from masked_sae.planning.reading import reading_of
from masked_sae.sweeps.local import make_runs
from support.composing import ROOT
from support.making import compose, small_run
from support.standins import make_standin, pythia_config

LARGE = [
    "lm.hook_name=blocks.0.hook_resid_post",
    "lm.batch_size=4",
    "data.context_length=128",
    "data.batch_size=1024",
    "data.train_tokens=16384",
    "data.window_tokens=8192",
    "data.max_epochs=100",
    "sae.d_sae=32768",
    "eval=none",
    "trainer.validate_every_steps=null",
]
MEMBERS = ("4", "8")
# Trains a pack of those members, and tells its growth.
PROGRAM = """
import json, sys
from pathlib import Path
import pytorch_lightning, transformer_lens.model_bridge
from masked_sae.sweeps.local import make_runs
from masked_sae.training.train_pack import train_pack
from support.making import compose

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

overrides, members = json.loads(sys.argv[1])
runs = make_runs([(compose([*overrides, f"sae.k={k}"]), {"sae.k": k}) for k in members])
idle = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
ended = train_pack(runs)
assert [one.state and one.state.status for one in ended] == ["done"] * len(runs), ended
print((kilobytes("VmHWM") - idle) * 1024)
"""


def test_pieces_of_a_forward_take_less_memory_and_as_much_arithmetic(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    overrides = small_run(neox_folder, corpus_folder, tmp_path)
    whole, pieces = (
        reading_of(make_runs([(compose([*overrides, f"lm.micro_batch_size={size}"]), {})])) for size in ("null", "2")
    )
    assert whole.forward is not None and pieces.forward is not None
    assert pieces.forward.peak < whole.forward.peak
    assert pieces.flops == pytest.approx(whole.flops, rel=1e-3)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_pack_of_a_gigabyte_takes_what_was_told(corpus_folder: Path, tmp_path: Path) -> None:
    lm = make_standin(
        tmp_path / "lm", pythia_config(hidden_size=512, num_attention_heads=8, intermediate_size=2048)
    )  # fmt: skip
    overrides = [*small_run(lm, corpus_folder, tmp_path), *LARGE]
    runs = make_runs([(compose([*overrides, f"sae.k={k}"]), {"sae.k": k}) for k in MEMBERS])
    memory = memory_of(runs, reading_of(runs), on_cuda=False)
    assert memory is not None and memory.peak > 1e9
    argument = json.dumps([overrides, MEMBERS])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
        timeout=880,
    )
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout.splitlines()[-1])
    print(memory.peak, grown, memory.parts)
    assert memory.peak == pytest.approx(grown, rel=0.15), memory.parts
