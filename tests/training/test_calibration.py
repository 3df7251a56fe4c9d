"""After calibration the L0 on clean text is the one asked for."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from masked_sae.activations.held_out import activation_batches
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences, make_sequences
from masked_sae.saes import InferenceSAE
from masked_sae.saes.settings import SAESettings
from masked_sae.training.calibration import ToCalibrate, calibrate_all, calibrated, raised
from support.counting import forwards_of
from support.making import CONTEXT_LIMIT, compose


def held_out_of(lm: LM) -> Sequences:
    tokens = torch.randint(5, 50, (40 * CONTEXT_LIMIT,), generator=torch.Generator().manual_seed(0)).numpy()
    return make_sequences(tokens, 16, lm.special)


def random_sae(d_in: int, bias: float = 0.0) -> InferenceSAE:
    generator = torch.Generator().manual_seed(3)
    W_dec_FD = torch.nn.functional.normalize(torch.randn(96, d_in, generator=generator), dim=1)
    zeros_D = torch.zeros(d_in)
    b_enc_F = torch.full((96,), bias)
    return InferenceSAE(W_dec_FD.T.contiguous(), b_enc_F, W_dec_FD, zeros_D, zeros_D, threshold_F=torch.zeros(96))


def read(lm: LM, held_out: Sequences, sequences: np.ndarray, batch_size: int) -> Iterator[torch.Tensor]:
    return (batch.x_BD for batch in activation_batches(lm, held_out, sequences, batch_size))


def l0(sae: InferenceSAE, lm: LM, held_out: Sequences, sequences: np.ndarray) -> float:
    tokens_NT, kept_NT = held_out.read(sequences)
    return (sae.encode(lm.activations(tokens_NT)[kept_NT]) > 0).sum(1).double().mean().item()


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("batch_size", [3, 100])
def test_l0_is_k_on_the_calibrating_text(neox: LM, k: int, batch_size: int) -> None:
    held_out, sequences = held_out_of(neox), np.arange(40)
    sae = calibrated(random_sae(neox.d_in), k, read(neox, held_out, sequences, batch_size))
    assert l0(sae, neox, held_out, sequences) == pytest.approx(k, abs=1e-9)
    assert sae.threshold_F is not None and sae.threshold_F.unique().numel() == 1


def test_the_threshold_does_not_depend_on_the_batches(neox: LM) -> None:
    held_out, sequences = held_out_of(neox), np.arange(40)
    batches = [read(neox, held_out, sequences, size) for size in (4, 40)]
    thresholds = [calibrated(random_sae(neox.d_in), 5, some).threshold_F for some in batches]
    torch.testing.assert_close(thresholds[0], thresholds[1], rtol=1e-5, atol=1e-6)


def test_the_threshold_is_the_same_with_static_shapes(neox: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out, sequences = held_out_of(neox), np.arange(40)
    dynamic = calibrated(random_sae(neox.d_in), 5, read(neox, held_out, sequences, 4)).threshold_F
    monkeypatch.setattr("masked_sae.training.calibration.static_on", lambda device: True)
    static = calibrated(random_sae(neox.d_in), 5, read(neox, held_out, sequences, 4)).threshold_F
    assert static is not None and dynamic is not None and torch.equal(static, dynamic)


def test_where_too_few_latents_are_positive_all_of_them_stay(neox: LM) -> None:
    held_out, sequences = held_out_of(neox), np.arange(40)
    sae = random_sae(neox.d_in, bias=-1.0)
    before = l0(sae, neox, held_out, sequences)
    after = calibrated(sae, 90, read(neox, held_out, sequences, 8))
    assert before < 90
    assert l0(after, neox, held_out, sequences) == before


def with_thresholds_of_its_own(d_in: int) -> InferenceSAE:
    thresholds_F = torch.rand(96, generator=torch.Generator().manual_seed(4)) * 0.3
    return replace(random_sae(d_in), threshold_F=thresholds_F)


@pytest.mark.parametrize("target", [0.0, 0.01, 1.0, 2.5, 12.3])
def test_raised_thresholds_keep_their_differences_and_give_the_l0(neox: LM, target: float) -> None:
    held_out, sequences = held_out_of(neox), np.arange(40)
    sae = with_thresholds_of_its_own(neox.d_in)
    assert sae.threshold_F is not None and l0(sae, neox, held_out, sequences) > target
    after = raised(sae, target, read(neox, held_out, sequences, 1))
    assert after.threshold_F is not None
    by_F = after.threshold_F - sae.threshold_F
    torch.testing.assert_close(by_F, by_F.mean().expand(96))
    assert by_F.mean() > 0 and torch.equal(after.b_enc_F, sae.b_enc_F)
    assert l0(after, neox, held_out, sequences) == pytest.approx(target, abs=0.01)


def test_thresholds_are_not_lowered(neox: LM) -> None:
    held_out, sequences = held_out_of(neox), np.arange(40)
    sae = with_thresholds_of_its_own(neox.d_in)
    target = 1 + l0(sae, neox, held_out, sequences)
    after = raised(sae, target, read(neox, held_out, sequences, 8))
    assert sae.threshold_F is not None and after.threshold_F is not None
    assert torch.equal(after.threshold_F, sae.threshold_F)


def settings_of(**changes: Any) -> SAESettings:
    return replace(compose(["sae=batch_topk", "sae.k=5", "sae.calibration_tokens=300"]).sae, **changes)


def members_of(lm: LM) -> list[ToCalibrate]:
    """With a target of its own, the training's, on less text, without thresholds, not asked for, another target."""
    without_k = compose(["sae=relu", "sae.calibration_tokens=300"]).sae
    nothing = replace(random_sae(lm.d_in), threshold_F=None, k=3)
    return [
        ToCalibrate(random_sae(lm.d_in), settings_of(), no_l0),
        ToCalibrate(with_thresholds_of_its_own(lm.d_in), without_k, lambda: 2.5),
        ToCalibrate(random_sae(lm.d_in), settings_of(calibration_tokens=100), no_l0),
        ToCalibrate(nothing, settings_of(), no_l0),
        ToCalibrate(random_sae(lm.d_in), settings_of(calibrate="none"), no_l0),
        ToCalibrate(random_sae(lm.d_in), settings_of(k=9), no_l0),
    ]


def tensors(sae: InferenceSAE) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(sae).items() if isinstance(value, torch.Tensor)}


def no_l0() -> float:
    raise ValueError("no L0 is on record")


def test_each_of_several_is_calibrated_as_it_is_alone(neox: LM) -> None:
    held_out, members = held_out_of(neox), members_of(neox)
    alone = [calibrate_all([member], neox, held_out, 4)[0] for member in members]
    forwards, backwards = (calibrate_all(some, neox, held_out, 4) for some in (members, members[::-1]))
    for found in (forwards, backwards[::-1]):
        for one, expected in zip(found, alone, strict=True):
            assert isinstance(one, InferenceSAE) and isinstance(expected, InferenceSAE)
            assert one.k == expected.k
            assert all(torch.equal(weight, tensors(expected)[name]) for name, weight in tensors(one).items())
    assert alone[3] is members[3].sae and alone[4] is members[4].sae


def test_those_that_want_as_many_tokens_share_their_forwards(neox: LM) -> None:
    held_out, members = held_out_of(neox), members_of(neox)
    with forwards_of(neox) as alone:
        calibrate_all(members[:1], neox, held_out, 4)
    with forwards_of(neox) as together:
        calibrate_all([member for member in members if member.settings.calibration_tokens == 300], neox, held_out, 4)
    assert alone == together and len(alone) > 1
    with forwards_of(neox) as none:
        calibrate_all(members[3:5], neox, held_out, 4)
    assert none == []


def test_what_befalls_one_is_in_its_place(neox: LM) -> None:
    held_out, (first, second, *_) = held_out_of(neox), members_of(neox)
    without_l0 = replace(second, last_l0=no_l0)
    found = calibrate_all([first, without_l0, second], neox, held_out, 4)
    assert isinstance(found[0], InferenceSAE) and isinstance(found[2], InferenceSAE)
    assert isinstance(found[1], ValueError) and str(found[1]) == "no L0 is on record"
