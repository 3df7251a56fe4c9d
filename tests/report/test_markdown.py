"""The findings as Markdown: every comparison once, and labels that cannot break the table."""

import math
from dataclasses import replace

import numpy as np

from masked_sae.report.catalogue import Metric
from masked_sae.report.design import Arm
from masked_sae.report.findings import Comparison, Finding
from masked_sae.report.markdown import findings_table
from masked_sae.report.repetitions import Repetition, Repetitions
from masked_sae.report.statistics import Difference, nothing

FIVE = tuple(Repetition(seed, seed) for seed in range(5))
AVERAGE = Difference(-0.02, -0.03, -0.01, 0.004, Repetitions(FIVE), 8.0, 30.0, 0.5, p_adjusted=0.012)


def table(*comparisons: Comparison) -> list[str]:
    metric = Metric("core/x", "Explained variance", "share", "", "higher")
    return findings_table([Finding(metric, "", {}, {}, {}, np.array([]), comparisons)]).splitlines()


def test_a_detected_difference_is_set_in_bold_and_single_l0s_follow_it() -> None:
    at = replace(AVERAGE, l0_low=16.0, l0_high=16.0, p_adjusted=math.nan)
    lines = table(Comparison(Arm("mask rate 0.1", False, 0.1), AVERAGE, (at, nothing("outside"))))
    assert lines[-2].startswith("| Explained variance | mask rate 0.1 | 0.500 |")
    assert "**0.012**" in lines[-2] and "mean, 8.0 to 30.0" in lines[-2]
    assert lines[-1].startswith("| | | 0.500 |") and "| 16 | 5 |" in lines[-1]


def test_where_nothing_can_be_said_the_reason_stands() -> None:
    lines = table(Comparison(Arm("mask rate 0.1", False, 0.1), nothing("one seed"), ()))
    assert "one seed" in lines[-1] and "**" not in lines[-1]


def test_a_label_that_looks_like_markup_is_text() -> None:
    lines = table(Comparison(Arm("[x](y) *a* `b`\nc", False, None), AVERAGE, ()))
    assert r"| \[x\](y) \*a\* \`b\` c |" in lines[-1]


def test_labels_cannot_break_the_table() -> None:
    lines = table(Comparison(Arm("a|b <script>", False, None), AVERAGE, ()))
    assert "a\\|b &lt;script>" in lines[-1]
    assert lines[-1].replace("\\|", "").count("|") == 10
