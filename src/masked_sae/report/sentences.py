"""The sentences of the first screen, and how its numbers are written."""

import math
from collections.abc import Sequence

from masked_sae.report.catalogue import Metric
from masked_sae.report.findings import Comparison, Finding, direction
from masked_sae.report.power import Power
from masked_sae.report.repetitions import show_count
from masked_sae.report.statistics import Difference

CLUSTERED = (
    "Pairs agree in text order (data.seed) and in seed; each text order counts as the mean of its seeds, and intervals "
    "and p values are over text orders."
)
POWERFUL = (
    "What would have shown: the smallest change that as many seeds with the same spread detect four times in five, "
    "with the correction."
)
_MOST_TIMES = 10  # the unmasked value: a larger share is none
MINUS = "\N{MINUS SIGN}"


def answer(findings: Sequence[Finding]) -> str:
    """What masking did to the headline metrics of one stratum, in a sentence."""
    tested = [finding for finding in findings if finding.verdict != "nothing can be said"]
    if not tested:
        reasons = [item.average.reason for finding in findings for item in finding.comparisons if item.average.reason]
        most = max(dict.fromkeys(reasons), key=reasons.count) if reasons else "no unmasked runs to compare with"
        return f"Nothing can be said about masking: {most}." if findings else "No run has been measured yet."
    parts: list[str] = []
    for verdict in ("better", "worse", "changed", "mixed"):
        names = [finding.metric.label for finding in tested if finding.verdict == verdict]
        if names:
            verb = {"changed": "changed", "mixed": "moved both ways, depending on the mask"}.get(
                verdict, f"got {verdict}"
            )
            parts.append(f"{_together([_inside(name) for name in names])} {verb}")
    unmoved = sum(finding.verdict == "no detectable difference" for finding in tested)
    if unmoved:
        which = f"{unmoved} metrics" if unmoved > 1 else "metric" if parts else "1 metric"
        which = f"the other {which}" if parts else which
        parts.append(f"no detectable difference in {which}")
    return f"With masking, at matched L0: {'; '.join(parts)}."


def sentence(finding: Finding) -> str:
    """What a metric shows, with intervals, and with what would have shown where nothing did."""
    name = finding.metric.label
    if not finding.comparisons:
        return f"{name}: nothing can be said, for there are no unmasked runs to compare with."
    said: dict[str, list[Comparison]] = {}
    for item in finding.comparisons:
        said.setdefault(_said(finding.metric, item), []).append(item)
    ordered = sorted(said.items(), key=lambda pair: not pair[1][0].average.detected)
    seeds = {show_seeds(item.average) for item in finding.comparisons if not math.isnan(item.average.estimate)}
    parts = [f"{what} at {_together(_shown(items, tell_seeds=len(seeds) > 1))}" for what, items in ordered]
    return f"{name}: {'; '.join([*parts, *(seeds if len(seeds) == 1 else ())])}."


def _said(metric: Metric, item: Comparison) -> str:
    average = item.average
    if math.isnan(average.p):
        return f"nothing can be said ({average.reason})"
    if not average.detected:
        return "no detectable difference"
    which = direction(metric, average)
    return ("higher" if average.estimate > 0 else "lower") + ("" if which == "changed" else f", which is {which},")


def _shown(items: Sequence[Comparison], tell_seeds: bool) -> list[str]:
    """Each way of masking with what it changed; `mask rate` is said once."""
    shown: list[str] = []
    for item in items:
        average = item.average
        label = item.arm.label.removeprefix("mask rate ") if shown else item.arm.label
        if math.isnan(average.estimate):
            shown.append(label)
            continue
        notes = [show_difference(average)]
        if tell_seeds:
            notes.append(show_seeds(average))
        if not math.isnan(average.p) and not average.detected:
            notes += [] if average.low <= 0 <= average.high else ["not kept when corrected"]
            notes += [f"{show_smallest(item)} would have shown"] if item.power else []
        shown.append(f"{label} ({', '.join(notes)})")
    return shown


def _inside(label: str) -> str:
    """A label within a sentence: abbreviations keep their capitals."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label


def _together(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def show_difference(difference: Difference) -> str:
    """`+0.012 [+0.004, +0.020]`; empty where there is no estimate."""
    if math.isnan(difference.estimate):
        return ""
    digits = decimals(difference.high - difference.low)
    text = signed(difference.estimate, digits)
    if math.isnan(difference.low):
        return text
    return f"{text} [{signed(difference.low, digits)}, {signed(difference.high, digits)}]"


def show_smallest(item: Comparison) -> str:
    """`0.13 (30 %)`: the change that would have shown, and its share of the unmasked value; empty where not known."""
    if item.power is None:
        return ""
    change, unmasked = item.power.smallest, abs(item.average.unmasked)
    shown = f"{change:.2g}" if change < 1 else f"{change:.0f}"
    if unmasked * _MOST_TIMES < change:
        return shown
    percent = 100 * change / unmasked
    return f"{shown} ({percent:.{0 if percent > 1 else 1}f} %)"


def show_needed(power: Power | None) -> str:
    """How many text orders a change of `TARGET` takes; empty where not known."""
    if power is None:
        return ""
    return f"{power.needed}" if power.needed is not None else "too many"


def show_p(p: float) -> str:
    """`0.012`; empty where nothing was tested."""
    if math.isnan(p):
        return ""
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"


def show_seeds(difference: Difference) -> str:
    return show_count(difference.paired, difference.run)


def decimals(width: float) -> int:
    """So many that an interval of this width has two digits."""
    if not width > 0 or not math.isfinite(width):
        return 4
    return min(6, max(0, 1 - math.floor(math.log10(width))))


def signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else MINUS}{text}"
