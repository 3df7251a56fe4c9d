"""The findings as a Markdown table, for a paper's draft or a page of notes."""

import math
from collections.abc import Sequence

from masked_sae.report.findings import Comparison, Finding, comparisons_made, text_orders_are_shared
from masked_sae.report.power import TARGET
from masked_sae.report.repetitions import Repetitions, show_count
from masked_sae.report.sentences import CLUSTERED, POWERFUL, show_difference, show_needed, show_p, show_smallest
from masked_sae.report.statistics import Difference

_COLUMNS = (
    "metric",
    "against unmasked",
    "unmasked",
    "difference at matched L0 [95 %]",
    "p (Holm)",
    "L0",
    "seeds",
    "would have shown",
    f"seeds for {TARGET:g}",
)


def findings_table(findings: Sequence[Finding], references: Sequence[str] = ()) -> str:
    """One row for each headline metric and way of masking: the difference averaged over the L0s that both reach, and
    below it the differences at single L0s within them.

    Args:
        references: names of SAEs from elsewhere, which are in none of it.
    """
    lines = [
        f"Differences are masked minus unmasked, paired by seed, at equal L0 on clean text; p values are corrected "
        f"(Holm) for {comparisons_made(findings)} comparisons, those at single L0s are not."
        + (f" {CLUSTERED}" if text_orders_are_shared(findings) else "")
        + f" {POWERFUL}",
        "",
        _line(_COLUMNS),
        "|" + "---|" * len(_COLUMNS),
    ]
    for finding in findings:
        name = finding.metric.label + (f" ({finding.stratum})" if finding.stratum else "")
        for item in finding.comparisons:
            average = item.average
            span = f"{average.l0_low:.1f} to {average.l0_high:.1f}" if not math.isnan(average.l0_low) else ""
            p = show_p(average.p_adjusted)
            verdict = f"**{p}**" if average.detected else p
            lines.append(_row(name, item.arm.label, average, verdict, f"mean, {span}", item))
            lines += [_row("", "", at, "", f"{at.l0_low:.3g}") for at in item.at_l0 if not math.isnan(at.estimate)]
    if references:
        lines += ["", f"References, in no row above: {', '.join(plain(name) for name in references)}."]
    return "\n".join(lines) + "\n"


def _row(metric: str, arm: str, difference: Difference, p: str, l0: str, item: Comparison | None = None) -> str:
    """
    Args:
        item: of the row that is an average over L0.
    """
    shown, unmasked = show_difference(difference), f"{difference.unmasked:.3f}"
    if math.isnan(difference.estimate):
        shown, unmasked, p = difference.reason, "", ""
    power = ["", ""] if item is None else [show_smallest(item), show_needed(item.power)]
    return _line([plain(metric), plain(arm), unmasked, shown, p, l0, _count(difference.paired), *power])


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _count(paired: Repetitions) -> str:
    """The column is of seeds: their number alone, unless they share text orders."""
    return str(len(paired.those)) if paired.seeds_alone else show_count(paired)


def plain(label: str) -> str:
    """A label as text: it ends no cell, opens no tag and no link, and sets nothing in bold."""
    text = "".join(f"\\{letter}" if letter in "\\`*[]|#" else letter for letter in " ".join(label.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")
