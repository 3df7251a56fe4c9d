"""The first line of the page: a finding with its interval, whatever it says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from masked_sae.report.findings import Finding
from masked_sae.report.sentences import answer, sentence

DEMONSTRATION = "demo"  # the name of the sweep that shows what a page looks like, rather than what masking does
_SAID = "A demonstration, with short training; what longer training showed is in docs/results.md."


@dataclass(frozen=True)
class Opening:
    """Attributes:
    demonstration: what is said before the line; empty where the sweep is none.
    line: the finding.
    """

    demonstration: str
    line: str


def open_page(sweep: str, findings: Sequence[Finding]) -> Opening:
    """Of the first headline metric that has an interval: their order was chosen beforehand, not by what they show.

    Args:
        sweep: its name.
    """
    shown = next((finding for finding in findings if _has_interval(finding)), None)
    stratum = f"{shown.stratum}: " if shown is not None and shown.stratum else ""
    line = answer(findings) if shown is None else stratum + sentence(shown)
    return Opening(_SAID if sweep == DEMONSTRATION else "", line)


def _has_interval(finding: Finding) -> bool:
    return any(not math.isnan(item.average.low) for item in finding.comparisons)
