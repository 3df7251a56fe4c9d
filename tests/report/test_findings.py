"""The sentences of the first screen claim what seeds and intervals carry, and nothing else."""

import math
from pathlib import Path

import pytest

from masked_sae.report.catalogue import our_catalogue
from masked_sae.report.design import read_design
from masked_sae.report.findings import Finding, comparisons_made, find
from masked_sae.report.runs_table import read_runs
from masked_sae.report.sentences import answer, decimals, sentence, show_p, signed
from support.made_sweeps import make_sweep

EV, ABSORPTION = "core/explained_variance", "absorption/token_class/full_absorption"


def findings_of(sweep: Path) -> dict[str, Finding]:
    runs = read_runs([sweep])
    return {finding.metric.key: finding for finding in find(runs, read_design(runs))}


def test_known_effects_are_claimed_with_their_direction_and_size(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=range(5), effect={EV: -0.5, ABSORPTION: -0.6}, noise=0.003)
    found = findings_of(tmp_path)
    assert found[EV].verdict == "worse" and found[ABSORPTION].verdict == "better"
    assert {finding.verdict for key, finding in found.items() if key not in (EV, ABSORPTION)} == {
        "no detectable difference"
    }
    at_low, at_high = (item.average for item in found[EV].comparisons)
    assert at_low.low < -0.05 < at_low.high < 0 and at_high.low < -0.1 < at_high.high < 0
    said = sentence(found[EV])
    assert said.startswith("Explained variance: lower, which is worse, at mask rate 0.1 (\N{MINUS SIGN}0.0")
    assert said.endswith("; 5 seeds.")
    assert answer(list(found.values())) == (
        "With masking, at matched L0: full absorption (token class) got better; explained variance got worse; "
        "no detectable difference in the other 5 metrics."
    )


@pytest.mark.slow
@pytest.mark.parametrize("noise_seed", range(5))
def test_without_effects_no_claim_is_made(tmp_path: Path, noise_seed: int) -> None:
    """L0 grows with the mask rate all the same, so at equal k every metric differs."""
    make_sweep(tmp_path, seeds=range(5), noise_seed=noise_seed)
    found = findings_of(tmp_path)
    assert {finding.verdict for finding in found.values()} == {"no detectable difference"}
    assert comparisons_made(list(found.values())) == 14
    for finding in found.values():
        said = sentence(finding)
        assert "which is" not in said and "no detectable difference" in said
        assert said.count(" would have shown") == len(finding.comparisons)
    assert answer(list(found.values())) == "With masking, at matched L0: no detectable difference in 7 metrics."


def test_with_one_seed_nothing_is_said(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0,), effect={EV: -2.0})
    found = list(findings_of(tmp_path).values())
    assert {finding.verdict for finding in found} == {"nothing can be said"}
    assert all("one seed" in sentence(finding) for finding in found)
    assert answer(found).startswith("Nothing can be said about masking: one seed")
    assert comparisons_made(found) == 0


def test_without_unmasked_runs_nothing_is_said(tmp_path: Path) -> None:
    make_sweep(tmp_path, rates=(0.1, 0.2))
    found = list(findings_of(tmp_path).values())
    assert all("no unmasked runs" in sentence(finding) for finding in found)
    assert "no unmasked runs" in answer(found)


def test_at_one_sparsity_different_l0s_are_not_compared(tmp_path: Path) -> None:
    make_sweep(tmp_path, ks=(16,))
    found = list(findings_of(tmp_path).values())
    assert {finding.verdict for finding in found} == {"nothing can be said"}
    assert all("sweep the sparsity too" in sentence(finding) for finding in found)


def test_a_difference_that_correction_takes_back_is_told_as_such(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=range(4), effect={EV: -0.06}, noise=0.004, noise_seed=3)
    finding = findings_of(tmp_path)[EV]
    taken_back = [item.average for item in finding.comparisons if item.average.p < 0.05 and not item.average.detected]
    assert taken_back, "choose noise for which the test has something to hold"
    assert finding.verdict == "no detectable difference" and "not kept when corrected" in sentence(finding)


def test_nothing_measured_says_so() -> None:
    assert answer([]) == "No run has been measured yet."


def test_numbers_have_as_many_digits_as_their_interval_gives_sense_to() -> None:
    assert [decimals(width) for width in (0.0123, 0.1, 3.0, 250.0, math.nan, 0.0)] == [3, 2, 1, 0, 4, 4]
    assert [signed(value, 2) for value in (0.127, -0.127, 0.001, -0.001)] == [
        "+0.13",
        "\N{MINUS SIGN}0.13",
        "0.00",
        "0.00",
    ]


def test_a_p_value_has_three_decimals_and_is_never_zero() -> None:
    assert [show_p(p) for p in (0.01234, 0.0006, 0.0004, 1.0, math.nan)] == ["0.012", "0.001", "<0.001", "1.000", ""]


def test_headline_metrics_are_chosen_beforehand_and_what_is_missing_is_named() -> None:
    keys = ["ood/gap", "core/explained_variance", "tpp/top_5", "tpp/top_20", "core/l0", "new/thing"]
    assert [metric.key for metric in our_catalogue().headlines(keys)] == [
        "core/explained_variance",
        "tpp/top_20",
        "ood/gap",
    ]
    assert our_catalogue().not_measured(keys) == ["CE loss recovered", "absorption", "sparse probing", "SCR"]
    assert (
        our_catalogue().describe("new/thing").label == "new/thing" and not our_catalogue().describe("new/thing").better
    )
    assert our_catalogue().describe("absorption/first_letter/full_absorption").label == "Full absorption (first letter)"
    assert our_catalogue().describe("ground_truth/absorption_rate").l0 == "ground_truth/l0"
