"""The lines that figures and charts share: what the findings say, placed so that none hides another."""

from pathlib import Path

import numpy as np
import pytest

from masked_sae.report.design import Design, read_design
from masked_sae.report.findings import Finding, find
from masked_sae.report.repetitions import show_count
from masked_sae.report.runs_table import read_runs
from masked_sae.report.series import differences, levels, position_limits, series_limits
from support.made_sweeps import make_sweep


@pytest.fixture
def found(tmp_path: Path) -> tuple[Design, Finding]:
    make_sweep(tmp_path, rates=(0.0, 0.1, 0.2), ks=(8, 16, 32), seeds=(0, 1), only=("core/explained_variance",))
    design = read_design(read_runs([tmp_path]))
    (finding,) = find(read_runs([tmp_path]), design)
    return design, finding


def test_levels_are_the_findings_by_sparsity(found: tuple[Design, Finding]) -> None:
    design, finding = found
    lines = levels(design, finding)
    assert [line.name for line in lines] == ["k 8", "k 16", "k 32"]
    for sparsity, line in enumerate(lines):
        assert (line.place, line.count, line.arms, line.counts) == (sparsity, 3, (0, 1, 2), ("2 seeds",) * 3)
        for arm in line.arms:
            interval, l0 = finding.level[arm, sparsity], finding.l0_level[arm, sparsity]
            assert (line.mean_K[arm], line.low_K[arm], line.high_K[arm]) == (interval.mean, interval.low, interval.high)
            assert line.l0_K[arm] == l0.mean
    x_KL = np.stack([line.x_K for line in lines], axis=1)
    assert (np.diff(x_KL) > 0).all() and np.allclose(x_KL.mean(1), [0.0, 0.1, 0.2])  # beside each other, about the rate


def test_differences_are_those_to_unmasked_at_each_l0(found: tuple[Design, Finding]) -> None:
    design, finding = found
    lines = differences(design, finding)
    assert {line.count for line in lines} == {len(finding.l0_G)} and len(lines) > 1
    for line in lines:
        at_l0 = {design.arms.index(item.arm): item.at_l0[line.place] for item in finding.comparisons}
        reached = {arm: item for arm, item in at_l0.items() if np.isfinite(item.estimate)}
        assert line.name == f"L0 {finding.l0_G[line.place]:.3g}" and line.arms == tuple(reached)
        assert line.mean_K.tolist() == [item.estimate for item in reached.values()]
        assert line.counts == tuple(show_count(item.paired) for item in reached.values())


def test_limits_hold_every_line_and_the_values_asked_for(found: tuple[Design, Finding]) -> None:
    design, finding = found
    lines = levels(design, finding)
    means = np.concatenate([line.mean_K for line in lines])
    limits, with_two = series_limits(lines), series_limits(lines, 2.0)
    assert limits is not None and with_two is not None
    assert limits[0] < means.min() and means.max() < limits[1] < 2 < with_two[1]
    assert series_limits([]) is None


def test_limits_of_positions_leave_room_beside_the_points() -> None:
    assert position_limits(np.array([0.0, 0.25, 0.5])) == pytest.approx((-0.04, 0.54))
    assert position_limits(np.array([0.1])) == pytest.approx((0.05, 0.15))
