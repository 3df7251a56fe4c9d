"""What only a CUDA device can show: its arithmetic beside the CPU's, and that the host does not wait for it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from masked_sae.activations.held_out import activation_batches
from masked_sae.activations.scale import measure_statistics
from masked_sae.activations.windows import Point
from masked_sae.runs.run import make_run
from masked_sae.saes import for_inference
from masked_sae.training.assemble import find_device, load_parts, make_stream
from masked_sae.training.calibration import calibrated
from masked_sae.training.compiled import COMPILER
from masked_sae.training.threads import matmul_precision
from masked_sae.training.train_run import train_run
from support.architectures import ARCHITECTURES, TOPK_FAMILY, trained
from support.composing import small_config
from support.processes import killed_after
from support.stepping import D_SAE, NO_MASKS, make_batch, make_training, weights_after

pytestmark = pytest.mark.cuda
DEVICE = "cuda"
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
RUNS = ("topk", "batch_topk", "matryoshka", "relu", "jumprelu", "gated")


@every_architecture
@pytest.mark.parametrize("shapes", ["static", "dynamic"])
def test_steps_are_those_of_the_plain_version_on_a_cpu(architecture: str, shapes: str) -> None:
    """Without masks, which each device draws for itself, as it does the chunks of orthogonality."""
    whole = {"orthogonality_chunk": D_SAE} if architecture in TOPK_FAMILY else {}
    plain = weights_after(make_training(architecture, NO_MASKS, reference=True, **whole))
    ours = weights_after(make_training(architecture, NO_MASKS, DEVICE, shapes=shapes, **whole), DEVICE)
    for name, tensor in plain.items():
        torch.testing.assert_close(ours[name], tensor, msg=name)


@every_architecture
def test_what_is_compiled_is_the_step(architecture: str) -> None:
    plain, fused = (make_training(architecture, NO_MASKS, DEVICE, compiler=one) for one in (None, COMPILER))
    expected = weights_after(plain, DEVICE)
    for name, tensor in weights_after(fused, DEVICE).items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@every_architecture
def test_the_host_does_not_wait_for_a_step(architecture: str, waiting_is_an_error: None) -> None:
    training = make_training(architecture, device=DEVICE, dtype=torch.float32)
    batches = [make_batch(step, DEVICE, torch.float32) for step in range(8)]
    training.learn(batches[0])  # libraries are set up, and Adam's moments made
    torch.cuda.set_sync_debug_mode("error")
    for batch in batches[1:]:
        training.learn(batch)


@pytest.mark.parametrize("architecture", RUNS)
def test_a_run_is_trained_calibrated_and_measured(
    architecture: str, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    measured = ["eval=full", "eval.concepts=[token_class]", f"eval.cache_dir={tmp_path / 'cache'}"]
    settings = [f"sae={architecture}", f"trainer.device={DEVICE}", *measured]
    run = make_run(small_config(neox_folder, corpus_folder, tmp_path, *settings), {})
    assert train_run(run).status == "done"


@pytest.mark.parametrize("architecture", ["matryoshka", "jumprelu"])
def test_a_killed_run_goes_on_and_ends_in_the_same_sae_to_round_off(
    architecture: str, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    settings = [f"sae={architecture}", f"trainer.device={DEVICE}", "mask=latent", "mask.latent.rate=0.2"]
    places = (tmp_path / "whole", tmp_path / "broken")
    whole, broken = (small_config(neox_folder, corpus_folder, place, *settings) for place in places)
    train_run(make_run(whole, {}))
    killed_after(broken, at_step=5)
    killed_after(broken, at_step=15)
    assert train_run(make_run(broken, {})).status == "done"
    ours, theirs = (load_file(make_run(one, {}).folder.sae / "sae_weights.safetensors") for one in (broken, whole))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-3, msg=name)


def test_the_streams_batches_are_those_of_a_cpu_to_round_off(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    run = make_run(small_config(neox_folder, corpus_folder, tmp_path), {})
    found: list[list[torch.Tensor]] = []
    for device in ("cpu", DEVICE):
        parts, scale_tokens = load_parts(run, find_device(device)), run.config.data.scale_tokens
        (statistics,) = measure_statistics([parts.lm], parts.sequences, scale_tokens, run.config.lm.batch_size)
        assert not isinstance(statistics, Exception)
        stream = make_stream(run, parts, [Point(parts.lm.hook_name, statistics.scale)])
        batches = [stream.batch(index) for index in range(12)]
        assert all(batch.x_BD.device.type == torch.device(device).type for batch in batches)
        found.append([batch.x_BD.cpu() for batch in batches])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
def test_thresholds_are_calibrated_as_on_a_cpu(
    architecture: str, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    run = make_run(small_config(neox_folder, corpus_folder, tmp_path), {})
    sae = for_inference(trained(architecture), 1.0)
    thresholds: list[torch.Tensor] = []
    for device in ("cpu", DEVICE):
        parts = load_parts(run, find_device(device))
        read = activation_batches(parts.lm, parts.held_out, np.arange(8), 4)
        threshold_F = calibrated(sae.to(parts.lm.device), 5, (batch.x_BD[:, :16] for batch in read)).threshold_F
        assert threshold_F is not None
        thresholds.append(threshold_F.cpu())
    torch.testing.assert_close(thresholds[1], thresholds[0], rtol=1e-3, atol=1e-4)


def test_less_precision_is_another_product_and_only_inside() -> None:
    x = torch.randn(1024, 1024, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))
    before = x @ x
    with matmul_precision("high"):
        rounded = x @ x
    assert torch.equal(x @ x, before) and not torch.equal(rounded, before)
    torch.testing.assert_close(rounded, before, rtol=1e-2, atol=0.5)
