"""Text orders are the sample: seeds that share one are averaged in it, and are no evidence beyond it."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from masked_sae.report.build import write_report
from masked_sae.report.design import read_design
from masked_sae.report.findings import Finding, find
from masked_sae.report.markdown import findings_table
from masked_sae.report.repetitions import Repetition, Repetitions, show_count, text_order_means
from masked_sae.report.runs_table import read_runs
from masked_sae.report.sentences import answer, sentence
from masked_sae.report.statistics import Curve, averaged_difference, holm, t_interval
from masked_sae.runs.sweep_record import Member
from support.made_sweeps import make_sweep

EV = "core/explained_variance"
# Of four seeds at rate 0.2, as the version before `data.seed` had them: estimate, low, high, p, L0s, unmasked; at
# k 32 the mean with its interval.
BEFORE = (
    -0.01925630192656972,
    -0.025081215746323306,
    -0.012689857042127746,
    0.002311665118211716,
    12.559659140634182,
    30.77955291972347,
    0.5968381806664798,
)
LEVEL_BEFORE = (0.6839849397274507, 0.675248793435886, 0.6927210860190154)
TIMES = 300  # of each simulation
ERROR = math.sqrt(0.05 * 0.95 / TIMES)  # of a share of 5 or 95 % of them


def crossed(text_orders: int, seeds: int) -> tuple[Repetition, ...]:
    return tuple(Repetition(text, 10 * text + seed) for text in range(text_orders) for seed in range(seeds))


def finding_of(sweep: Path) -> Finding:
    runs = read_runs([sweep])
    (finding,) = find(runs, read_design(runs))
    return finding


def change_data_seed(members: list[Member], how: str) -> None:
    for member in members:
        results = json.loads(member.folder.results.read_text())
        if how == "not known":
            del results["config"]["data"]["seed"]
        else:
            results["config"]["data"]["seed"] = results["config"]["seed"] if how == "the same" else None
        member.folder.results.write_text(json.dumps(results))


@pytest.mark.parametrize("how", ["not known", "not set", "the same"])
def test_where_each_seed_has_its_own_text_order_numbers_and_words_are_those_of_before_data_seed(
    tmp_path: Path, how: str
) -> None:
    members = make_sweep(tmp_path, rates=(0.0, 0.2), seeds=range(4), effect={EV: -0.1}, only=(EV,))
    change_data_seed(members, how)
    finding = finding_of(tmp_path)
    average, level = finding.comparisons[0].average, finding.level[1, 2]
    found = (average.estimate, average.low, average.high, average.p, average.l0_low, average.l0_high, average.unmasked)
    assert found == pytest.approx(BEFORE, rel=1e-12)
    assert (level.mean, level.low, level.high) == pytest.approx(LEVEL_BEFORE, rel=1e-12)
    assert sentence(finding).endswith("; 4 seeds.")
    table = findings_table([finding])
    assert "text order" not in table and table.splitlines()[4].split(" | ")[6] == "4"


def test_a_count_says_text_orders_and_seeds_where_they_differ() -> None:
    alone = Repetitions(tuple(Repetition(seed, seed) for seed in range(3)))
    assert show_count(alone) == "3 seeds"
    assert show_count(Repetitions(alone.those[:1])) == "1 seed" and show_count(Repetitions()) == "0 seeds"
    assert show_count(Repetitions(alone.those[:2]), alone) == "2 of 3 seeds"
    grid = Repetitions(crossed(3, 2))
    assert show_count(grid) == "3 text orders x 2 seeds"
    assert show_count(Repetitions(grid.those[:4]), grid) == "2 of 3 text orders x 2 seeds"
    assert show_count(Repetitions(grid.those[:5]), grid) == "3 text orders x 1 to 2 of 2 seeds"
    assert show_count(Repetitions(crossed(1, 3))) == "1 text order x 3 seeds"
    assert show_count(Repetitions(tuple(Repetition(text, 0) for text in range(3)))) == "3 text orders x 1 seed"


def test_each_text_order_counts_once() -> None:
    means = text_order_means([1.0, 2.0, 3.0, 10.0], [5, 5, 5, 2])
    assert means.tolist() == [2.0, 10.0]  # in the order in which they come, and plain: 6 in the mean, where runs give 4
    several = text_order_means(np.arange(6.0).reshape(3, 2), [1, 0, 1])
    assert several.tolist() == [[2.0, 3.0], [2.0, 3.0]]


def test_interval_and_p_are_those_of_a_t_test_over_the_text_orders_means() -> None:
    rng = np.random.default_rng(0)
    members = [*crossed(4, 3), Repetition(9, 90)]  # one text order with a single seed
    ks = np.array([8.0, 16.0, 32.0])
    unmasked = {one: Curve(np.arange(3), ks, rng.normal(0, 1, 3)) for one in members}
    masked = {one: Curve(np.arange(3), ks, rng.normal(0.5, 1, 3)) for one in members}
    found = averaged_difference(unmasked, masked)
    by_text: dict[int, list[float]] = {}
    for one in members:
        by_text.setdefault(one.data_seed, []).append(float(masked[one].value_K.mean() - unmasked[one].value_K.mean()))
    expected = stats.ttest_1samp([np.mean(values) for values in by_text.values()], 0.0)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert show_count(found.paired) == "5 text orders x 1 to 3 of 3 seeds"


def test_only_runs_that_agree_in_both_seeds_are_a_pair() -> None:
    curve = Curve(np.arange(3), np.array([8.0, 16.0, 32.0]), np.zeros(3))
    unmasked = dict.fromkeys((Repetition(0, 0), Repetition(1, 0), Repetition(2, 1)), curve)
    masked = dict.fromkeys((Repetition(0, 0), Repetition(1, 1), Repetition(2, 1)), curve)
    assert averaged_difference(unmasked, masked).paired.those == (Repetition(0, 0), Repetition(2, 1))


def clustered(
    rng: np.random.Generator, repetitions: tuple[Repetition, ...], effect: float
) -> tuple[dict[Repetition, Curve], dict[Repetition, Curve]]:
    """Runs without and with masking, whose differences share a part in each text order; of equal L0, where an interval
    is to hold the truth in just 95 % of all cases."""
    of_text = {text: rng.normal(effect, 0.02) for text in {one.data_seed for one in repetitions}}
    l0_K = np.array([8.0, 16.0, 32.0])
    unmasked = {one: Curve(np.arange(3), l0_K, rng.normal(0.5, 0.01, 3)) for one in repetitions}
    masked = {one: Curve(np.arange(3), l0_K, rng.normal(0.5 + of_text[one.data_seed], 0.01, 3)) for one in repetitions}
    return unmasked, masked


def as_if_alone(side: dict[Repetition, Curve]) -> dict[Repetition, Curve]:
    """As if each run had read a text of its own: what pooling takes them for."""
    return {Repetition(place, place): curve for place, curve in enumerate(side.values())}


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [(), crossed(1, 3)[1:]], ids=["balanced", "unbalanced"])
def test_intervals_over_text_orders_cover_the_truth_and_pooled_ones_do_not(left_out: tuple[Repetition, ...]) -> None:
    rng = np.random.default_rng(1)
    repetitions = tuple(one for one in crossed(4, 3) if one not in left_out)
    held = pooled = levels = 0
    for _ in range(TIMES):
        unmasked, masked = clustered(rng, repetitions, 0.03)
        found = averaged_difference(unmasked, masked)
        naive = averaged_difference(as_if_alone(unmasked), as_if_alone(masked))
        held += found.low <= 0.03 <= found.high
        pooled += naive.low <= 0.03 <= naive.high
        middle = [curve.value_K[1] for curve in masked.values()]
        level = t_interval(text_order_means(middle, [one.data_seed for one in masked]))
        levels += level.low <= 0.53 <= level.high
    assert abs(held / TIMES - 0.95) <= 2.5 * ERROR and abs(levels / TIMES - 0.95) <= 2.5 * ERROR
    assert pooled / TIMES < 0.95 - 5 * ERROR


@pytest.mark.slow
def test_without_an_effect_clustered_runs_seldom_make_a_claim_and_pooled_ones_often() -> None:
    rng = np.random.default_rng(2)
    claimed = pooled = 0
    for _ in range(TIMES):
        unmasked, masked = clustered(rng, crossed(4, 3), 0.0)
        claimed += holm([averaged_difference(unmasked, masked)])[0].detected
        pooled += holm([averaged_difference(as_if_alone(unmasked), as_if_alone(masked))])[0].detected
    assert claimed / TIMES <= 0.05 + 2.5 * ERROR and pooled / TIMES > 0.05 + 5 * ERROR


def test_one_text_order_carries_no_claim_however_many_seeds(tmp_path: Path) -> None:
    make_sweep(tmp_path, data_seeds=(7,), seeds=range(5), effect={EV: -2.0}, only=(EV,))
    finding = finding_of(tmp_path)
    assert finding.verdict == "nothing can be said" and "(one text order: " in sentence(finding)
    assert answer([finding]).startswith("Nothing can be said about masking: one text order")
    for item in finding.comparisons:
        assert item.average.estimate < -0.1 and math.isnan(item.average.low) and math.isnan(item.average.p)
    assert all(math.isnan(level.low) and math.isfinite(level.mean) for level in finding.level.values())
    assert "| 1 text order x 5 seeds |" in findings_table([finding])


def test_a_sweep_over_both_seeds_says_so_in_texts_and_tables(tmp_path: Path) -> None:
    make_sweep(tmp_path, data_seeds=(0, 1, 2), seeds=(0, 1), effect={EV: -0.5}, noise=0.001, only=(EV,))
    runs = read_runs([tmp_path])
    design = read_design(runs)
    assert design.strata == ("",) and dict(design.varied)["data.seed"] == (0, 1, 2)
    (finding,) = find(runs, design)
    assert finding.verdict == "worse" and sentence(finding).endswith("; 3 text orders x 2 seeds.")
    assert findings_table([finding]).count("| 3 text orders x 2 seeds |") >= 4
    page = write_report([tmp_path], figures=False).read_text()
    assert "intervals and p values are over text orders" in page
    assert re.search(r"L0 [\d.]+, 3 text orders x 2 seeds", page)


def test_a_level_is_the_plain_mean_of_its_text_orders_means(tmp_path: Path) -> None:
    members = make_sweep(tmp_path, rates=(0.0,), ks=(8,), data_seeds=(0, 1), seeds=(0, 1), only=(EV,))
    for member, value in zip(members, (0.1, 0.3, 0.8, None), strict=True):
        results = json.loads(member.folder.results.read_text())
        results["metrics"][EV] = value
        member.folder.results.write_text(json.dumps(results))
    finding = finding_of(tmp_path)
    assert finding.level[0, 0].mean == pytest.approx(0.5) and finding.level[0, 0].count == 2
    assert show_count(finding.repeated[0, 0]) == "2 text orders x 1 to 2 of 2 seeds"
