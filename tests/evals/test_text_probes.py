"""Balanced sets, probes and ablations against plain computations."""

import pytest
import torch

from masked_sae.evals.text_probes import (
    BinarySets,
    LinearProbes,
    ablated_logits,
    one_against_rest,
    strongest,
    train_probes,
)


def test_each_class_meets_equal_shares_of_all_others() -> None:
    labels_N = torch.arange(60) % 3
    chosen_N = torch.arange(60) < 36
    sets = one_against_rest(labels_N, chosen_N, seed=0)
    assert sets.rows_CM.shape == (3, 24)
    assert (sets.rows_CM < 36).all()
    for label, (row_M, positive_M) in enumerate(zip(sets.rows_CM, sets.positive_CM, strict=True)):
        assert len(row_M.unique()) == 24
        assert (labels_N[row_M[positive_M]] == label).all()
        assert torch.equal(labels_N[row_M[~positive_M]].bincount(minlength=3).sort().values, torch.tensor([0, 6, 6]))


def test_unequal_classes_are_cut_to_the_smallest() -> None:
    labels_N = torch.tensor([0] * 9 + [1] * 5 + [2] * 20)
    sets = one_against_rest(labels_N, torch.ones(34, dtype=torch.bool), seed=0)
    assert sets.rows_CM.shape == (3, 10)
    assert sets.positive_CM.sum(1).tolist() == [5, 5, 5]


def test_the_same_seed_draws_the_same_texts_and_another_seed_others() -> None:
    labels_N = torch.arange(90) % 3
    drawn = [one_against_rest(labels_N, torch.ones(90, dtype=torch.bool), seed).rows_CM for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_mean_differences_are_those_of_the_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    values_NE = torch.randn(60, 7, generator=generator)
    sets = one_against_rest(torch.arange(60) % 3, torch.ones(60, dtype=torch.bool), seed=0)
    for task, difference_E in enumerate(sets.mean_differences(values_NE)):
        row_M, positive_M = sets.rows_CM[task], sets.positive_CM[task]
        expected_E = values_NE[row_M[positive_M]].mean(0) - values_NE[row_M[~positive_M]].mean(0)
        torch.testing.assert_close(difference_E, expected_E)


def test_accuracies_count_logits_on_the_right_side_of_zero() -> None:
    sets = BinarySets.of([torch.tensor([0, 1])], [torch.tensor([2, 3])])
    logits_NC = torch.tensor([[1.0], [-1.0], [-2.0], [-3.0], [9.0]])
    assert sets.accuracies(logits_NC).tolist() == [0.75]


def test_probes_follow_adamw_written_out_with_autograd() -> None:
    """The oracle trains each task on its own with torch's losses."""
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(40, 6, generator=generator)
    sets = one_against_rest((x_ND[:, 0] > 0).long() + (x_ND[:, 1] > 1).long(), torch.ones(40, dtype=torch.bool), 0)
    probes = train_probes(x_ND, sets, seed=3, epochs=3, batch_size=4, lr=0.01, l1=0.01)
    from masked_sae.randomness import numpy_generator

    for task, (row_M, positive_M) in enumerate(zip(sets.rows_CM, sets.positive_CM, strict=True)):
        linear = torch.nn.Linear(6, 1)
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        optimizer = torch.optim.AdamW(linear.parameters(), lr=0.01)
        for epoch in range(3):
            order = torch.arange(len(row_M)).tile(len(sets.rows_CM), 1).numpy()
            order_M = numpy_generator(3, "batches of a probe", epoch).permuted(order, axis=1)[task]
            for start in range(0, len(row_M), 4):
                batch = torch.from_numpy(order_M[start : start + 4])
                logits_B = linear(x_ND[row_M[batch]])[:, 0]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_B, positive_M[batch].float())
                optimizer.zero_grad()
                (loss + 0.01 * linear.weight.abs().sum()).backward()
                optimizer.step()
        torch.testing.assert_close(probes.W_CD[task], linear.weight[0].detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(probes.b_C[task], linear.bias[0].detach(), atol=1e-5, rtol=1e-4)


def test_the_strongest_latents_are_those_of_positive_effect() -> None:
    effects_F = torch.tensor([0.0, 3.0, -5.0, 1.0, 2.0])
    assert strongest(effects_F, 2).tolist() == [1, 4]
    assert strongest(effects_F, 5).tolist() == [1, 4, 3]


@pytest.mark.parametrize("ns", [(1, 3), (2, 4, 6)])
def test_ablated_logits_are_those_of_encoding_ablating_and_decoding(ns: tuple[int, ...]) -> None:
    """The oracle ablates every token's latents, decodes, adds the SAE's error and only then takes the mean."""
    generator = torch.Generator().manual_seed(1)
    f_NTF = torch.randn(8, 5, 12, generator=generator).relu()
    W_dec_FD, b_dec_D = torch.randn(12, 4, generator=generator), torch.randn(4, generator=generator)
    x_NTD = torch.randn(8, 5, 4, generator=generator)
    probes = LinearProbes(torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator))
    latents_K = torch.tensor([7, 2, 11, 0])
    logits = ablated_logits(probes.logits(x_NTD.mean(1)), f_NTF.mean(1), W_dec_FD, probes, latents_K, ns)
    for n, logits_NC in zip(ns, logits, strict=True):
        error_NTD = x_NTD - (f_NTF @ W_dec_FD + b_dec_D)
        ablated_NTF = f_NTF.clone()
        ablated_NTF[..., latents_K[:n]] = 0
        changed_NTD = ablated_NTF @ W_dec_FD + b_dec_D + error_NTD
        torch.testing.assert_close(logits_NC, probes.logits(changed_NTD.mean(1)), atol=1e-4, rtol=1e-4)
