"""What is read of latents in one pass is what all their activations, held at once, tell."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences, make_sequences
from masked_sae.latents.activity import EDGES, Activity, Reading, RunningActivity, read_activity
from masked_sae.latents.contexts import Contexts, spread
from masked_sae.latents.neighbours import nearest_by_decoder, nearest_by_firing
from masked_sae.saes import InferenceSAE
from support.making import D_IN, distinct_tokens

F, T, N, KEPT, WIDTH = 48, 24, 40, 5, 8


@pytest.fixture(scope="module")
def held_out(neox: LM) -> Sequences:
    return make_sequences(distinct_tokens(T * N), T, neox.special)


@pytest.fixture(scope="module")
def sae(neox: LM, held_out: Sequences) -> InferenceSAE:
    """Latents that fire 400 times, ever more seldom, once, and the last never."""
    generator = torch.Generator().manual_seed(1)
    W_enc_DF, W_dec_FD = torch.randn(D_IN, F, generator=generator), torch.randn(F, D_IN, generator=generator)
    tokens_NT, kept_NT = held_out.read(np.arange(len(held_out)))
    pre_PF = (neox.activations(tokens_NT)[kept_NT] @ W_enc_DF).sort(dim=0, descending=True).values
    times_F = (400 * (1 / 400) ** torch.linspace(0, 1, F)).round().long()
    threshold_F = (pre_PF[times_F - 1, torch.arange(F)] + pre_PF[times_F, torch.arange(F)]) / 2
    threshold_F[-1] = 1e6
    zeros_D = torch.zeros(D_IN)
    return InferenceSAE(W_enc_DF, -threshold_F, W_dec_FD, zeros_D, zeros_D, threshold_F=torch.zeros(F))


@pytest.fixture(scope="module")
def reading(held_out: Sequences) -> Reading:
    indices_N: NDArray[np.int64] = np.random.default_rng(0).permutation(len(held_out))
    return Reading(indices_N, contexts=KEPT, width=WIDTH, batch_size=8, seed=0)


@pytest.fixture(scope="module")
def dense(sae: InferenceSAE, neox: LM, held_out: Sequences, reading: Reading) -> Tensor:
    """All latents at all positions, (N, T, F); 0 at special ones."""
    tokens_NT, kept_NT = held_out.read(reading.indices_N)
    with torch.inference_mode():
        return sae.encode(neox.activations(tokens_NT).flatten(0, 1)).view(*tokens_NT.shape, F) * kept_NT[..., None]


@pytest.fixture(scope="module")
def activity(sae: InferenceSAE, neox: LM, held_out: Sequences, reading: Reading) -> Activity:
    return read_activity(sae, neox, held_out, reading)


def test_sums_and_histograms(activity: Activity, dense: Tensor, held_out: Sequences) -> None:
    f_PF = dense.flatten(0, 1)
    assert activity.tokens == len(held_out) * held_out.content_length
    assert torch.equal(activity.count_F, (f_PF > 0).sum(0))
    assert activity.count_F[-1] == 0 and activity.count_F.max() > 100
    torch.testing.assert_close(activity.max_F, f_PF.amax(0))
    torch.testing.assert_close(activity.sum_F, f_PF.double().sum(0), rtol=1e-5, atol=1e-5)
    for latent in range(0, F, 7):
        fired = f_PF[:, latent][f_PF[:, latent] > 0].numpy()
        counts, _ = np.histogram(fired, EDGES.numpy())
        assert np.abs(counts - activity.histogram_FB[latent].numpy()).sum() <= 2  # round-off at an edge


def test_the_strongest_contexts_are_one_of_a_sequence(activity: Activity, dense: Tensor) -> None:
    best_NF = dense.amax(1)
    expected_FK = best_NF.topk(KEPT, dim=0).values.T
    torch.testing.assert_close(activity.top.value_FK, expected_FK)
    sequence_FK = activity.top.first_FK // T
    for latent in range(F - 1):
        found = activity.top.value_FK[latent] > 0
        sequences = sequence_FK[latent][found]
        assert len(sequences.unique()) == len(sequences)


def check_windows(contexts: Contexts, dense: Tensor) -> None:
    f_PF = dense.flatten(0, 1)
    for latent, rank in (contexts.value_FK > 0).nonzero().tolist():
        first, at = int(contexts.first_FK[latent, rank]), int(contexts.at_FK[latent, rank])
        assert first // T == (first + WIDTH - 1) // T  # within a sequence
        around_W = f_PF[first : first + WIDTH, latent]
        torch.testing.assert_close(around_W[at], contexts.value_FK[latent, rank])
        torch.testing.assert_close(around_W.amax(), contexts.peak_FK[latent, rank])
        stored_W = contexts.window_FKW[latent, rank].float() / 255 * contexts.peak_FK[latent, rank]
        assert torch.equal(stored_W > 0, around_W > 0)
        assert ((stored_W - around_W).abs() <= around_W.amax() / 250).all()


def test_windows_are_the_latents_around(activity: Activity, dense: Tensor) -> None:
    check_windows(activity.top, dense)
    check_windows(activity.sample, dense)


def test_the_sample_of_a_rare_latent_is_all_of_it(activity: Activity, dense: Tensor) -> None:
    seen = 0
    for latent, count in enumerate(activity.count_F.tolist()):
        values = activity.sample.value_FK[latent]
        assert torch.equal(values, values.sort(descending=True).values)
        if 0 < count <= KEPT:
            fired = dense[..., latent][dense[..., latent] > 0].sort(descending=True).values
            torch.testing.assert_close(values[:count], fired)
            seen += 1
    assert seen > 0


def test_samples_tell_quantiles(activity: Activity, dense: Tensor) -> None:
    """Of latents that fire often: in the mean over these, the share below a sampled activation is as it is labelled."""
    often = (activity.count_F > 100).nonzero()[:, 0].tolist()
    errors = [
        [
            (dense[..., latent][dense[..., latent] > 0] < value).float().mean().item() - label
            for value, label in labelled
        ]
        for latent in often
        if (labelled := list(zip(activity.sample.value_FK[latent], activity.quantile_FK[latent].tolist(), strict=True)))
    ]
    assert len(often) > 5
    assert np.abs(np.mean(errors, axis=0)).max() < 0.12


def test_batches_make_no_difference(sae: InferenceSAE, dense: Tensor, reading: Reading, activity: Activity) -> None:
    running = RunningActivity(F, reading, torch.device("cpu"))
    for first, last in ((0, 1), (1, 30), (30, len(dense))):
        part = dense[first:last]
        running.add(part.clone(), torch.ones(part.shape[:2], dtype=torch.bool))
    other = running.result()
    torch.testing.assert_close(other.top.value_FK, activity.top.value_FK)
    assert torch.equal(other.histogram_FB, activity.histogram_FB)
    torch.testing.assert_close(other.sample.value_FK, activity.sample.value_FK)  # one number drawn for each


def test_an_even_spread() -> None:
    values_1K = torch.arange(12.0)[None] + 1
    zeros = torch.zeros(1, 12)
    found = Contexts(values_1K, zeros.long(), zeros.byte(), torch.zeros(1, 12, 4, dtype=torch.uint8), zeros)
    some, quantile_1K = spread(found, 3)
    assert some.value_FK.tolist() == [[10.0, 6.0, 2.0]]
    torch.testing.assert_close(quantile_1K, torch.tensor([[9.5, 5.5, 1.5]]) / 12)


def test_nearest_by_firing_is_jaccards_index(activity: Activity, dense: Tensor) -> None:
    found = nearest_by_firing(activity.position_P, activity.latent_P, F, 4)
    fired_PF = (dense.flatten(0, 1) > 0).float()
    both_FF = fired_PF.T @ fired_PF
    either_FF = fired_PF.sum(0)[:, None] + fired_PF.sum(0)[None] - both_FF
    jaccard_FF = (both_FF / either_FF.clamp_min(1)).masked_fill(both_FF < 3, 0).fill_diagonal_(0)
    torch.testing.assert_close(found.nearness_FM, jaccard_FF.topk(4, dim=1).values)
    near, other = found.latent_FM, found.nearness_FM
    assert torch.equal(near >= 0, other > 0)
    rows, ranks = (near >= 0).nonzero(as_tuple=True)
    torch.testing.assert_close(jaccard_FF[rows, near[rows, ranks]], other[rows, ranks])


def test_an_sae_that_never_fires_is_read_too(
    sae: InferenceSAE, neox: LM, held_out: Sequences, reading: Reading
) -> None:
    dead = read_activity(sae.with_threshold(1e9), neox, held_out, reading)
    assert dead.tokens > 0 and not dead.count_F.any() and not dead.histogram_FB.any()
    assert not dead.top.value_FK.any() and not dead.sample.value_FK.any()
    assert (nearest_by_firing(dead.position_P, dead.latent_P, F, 4).latent_FM == -1).all()


def test_nearest_by_decoder_is_the_cosine(sae: InferenceSAE) -> None:
    found = nearest_by_decoder(sae.W_dec_FD, 4)
    cosine_FF = torch.nn.functional.cosine_similarity(sae.W_dec_FD[:, None], sae.W_dec_FD[None], dim=2)
    torch.testing.assert_close(found.nearness_FM, cosine_FF.fill_diagonal_(-2).topk(4, dim=1).values)
    alone = nearest_by_decoder(torch.randn(2, 3), 4)
    assert alone.latent_FM.tolist() == [[1, -1, -1, -1], [0, -1, -1, -1]]
