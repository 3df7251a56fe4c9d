"""What a run needs of memory at the least, and who refuses it."""

import pytest
import torch

from masked_sae.errors import InputError
from masked_sae.saes.settings import PACKAGE
from masked_sae.settings import names
from masked_sae.training.memory import available_bytes, needed_bytes, pack_bytes, refuse_larger_than, refuse_too_large
from support.making import compose

CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", names(PACKAGE, "Settings"))
def test_it_is_no_more_than_what_training_holds(architecture: str) -> None:
    config = compose([f"sae={architecture}", "data.train_tokens=100_000"])
    sae = config.sae.make(32, torch.Generator())
    weights = 4 * sum(parameter.nbytes for parameter in sae.parameters())
    window, batch = 65_536 * 32 * 4, 1024 * (2048 + 32) * 4
    assert 0.95 * (weights + window + batch) <= needed_bytes(config, 32) <= weights + window + batch


def test_clean_targets_are_a_window_more() -> None:
    plain, clean = (compose([f"mask.token.target={target}"]) for target in ("masked", "clean"))
    assert needed_bytes(clean, 8) - needed_bytes(plain, 8) == 65_536 * 8 * 4


@pytest.mark.parametrize(
    ("override", "key"),
    [("sae.d_sae=100000000", "sae.d_sae"), ("data.window_tokens=1e12", ""), ("data.batch_size=900000000", "")],
)
def test_what_cannot_be_held_is_refused_with_its_size_and_the_setting_that_weighs_most(override: str, key: str) -> None:
    key, _, value = override.partition("=")
    number = int(float(value))
    config = compose([f"{key}={number}", "data.train_tokens=1_000_000_000_000", "data.window_tokens=1_000_000_000_000"]
                     if key != "sae.d_sae" else [override])  # fmt: skip
    with pytest.raises(
        InputError, match=r"expected less: training would need at least [\d,.]+ GiB, a job has 24 GiB$"
    ) as info:
        refuse_larger_than(config, 1, 24 << 30, "a job has")
    assert info.value.key in (key, "data.window_tokens")


def test_a_pack_needs_what_all_share_once_and_what_each_has_as_often_as_there_are_members() -> None:
    one, other = (compose([f"sae.k={k}"]) for k in (8, 16))
    elsewhere, larger = compose(["lm.hook_name=blocks.1.hook_resid_post"]), compose(["sae.d_sae=4096"])
    alone, both = pack_bytes([one]), pack_bytes([one, other])
    weights = 4 * sum(parameter.nbytes for parameter in one.sae.make(256, torch.Generator()).parameters())
    assert weights <= both - alone < 1.3 * weights  # one at a time has a gradient
    assert pack_bytes([one, other, other]) - both == both - alone
    assert pack_bytes([one, elsewhere]) - both == 65_536 * 256 * 4
    assert pack_bytes([one, larger]) - both > both - alone
    assert alone > needed_bytes(one, 256) + 4_500_000 * 4  # the LM's weights, in float32
    assert pack_bytes([compose(["sae.k=8", "lm.micro_batch_size=2"])]) < alone


def test_the_defaults_fit_here() -> None:
    refuse_too_large(compose([]), 256, CPU)


def test_slurms_share_of_a_node_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "64")
    assert available_bytes(CPU) == 64 << 20
    with pytest.raises(InputError, match=r"^sae\.d_sae=\d+: expected less: .* this machine has 0\.062 GiB"):
        refuse_too_large(compose(["sae.d_sae=1_000_000"]), 1, CPU)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "32")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert available_bytes(CPU) == 64 << 20
    monkeypatch.delenv("SLURM_MEM_PER_CPU")
    assert available_bytes(CPU) > 64 << 20


def test_a_window_made_ahead_is_one_more_and_an_lm_elsewhere_takes_no_memory_here() -> None:
    plain, ahead = (compose([f"data.ahead={word}"]) for word in ("false", "true"))
    assert needed_bytes(ahead, 8) - needed_bytes(plain, 8) == 65_536 * 8 * 4
    assert pack_bytes([ahead]) - pack_bytes([plain]) == 65_536 * 256 * 4
    of_one_window = compose(["data.ahead=true", "data.train_tokens=65_536"])
    assert needed_bytes(of_one_window, 8) == needed_bytes(plain, 8)
    apart = compose(["trainer.device=cuda", "lm.device=cpu"])
    together = compose(["trainer.device=cuda", "lm.device=cpu", "data.ahead=false"])
    assert pack_bytes([apart]) - pack_bytes([together]) == 65_536 * 256 * 4
    assert pack_bytes([together]) < pack_bytes([plain]) - 4_500_000 * 4


def test_of_processes_that_share_the_latents_each_holds_its_part() -> None:
    """All but the window: the SAE's eighth part four times over would be less than the whole once, to be measured."""
    whole, halves = compose([]), compose(["trainer.devices=2", "trainer.shard_latents=true"])
    eighths = compose(["trainer.devices=8", "trainer.shard_latents=true"])
    rows = compose(["trainer.devices=2"])
    weights = 4 * (2 * 256 * 2048 + 2048 + 256)
    assert needed_bytes(rows, 256) - needed_bytes(halves, 256) == 2 * weights - 512 * 256 * 4
    assert needed_bytes(whole, 256) > needed_bytes(halves, 256) > needed_bytes(eighths, 256) > weights
    assert pack_bytes([rows]) - pack_bytes([halves]) == 2 * weights
