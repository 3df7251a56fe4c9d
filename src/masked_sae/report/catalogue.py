"""The metrics in `results.json`: what each is called, its unit, and which way is better.

The words are those of the families that measure them; a user's own family has left its words in the results.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from masked_sae.evals.family import CLEAN_L0, Better, Family, Wording, our_families, words_of


@dataclass(frozen=True)
class Metric:
    """Attributes:
    key: in `results.json`.
    label: as a heading or the start of a sentence.
    better: which way is better; empty where neither is.
    headline: chosen beforehand for the first screen.
    l0: the key of the L0 at which runs are compared.
    """

    key: str
    label: str
    unit: str
    meaning: str
    better: Better = ""
    headline: bool = False
    l0: str = CLEAN_L0

    @property
    def family(self) -> str:
        return self.key.split("/")[0]

    @property
    def axis_label(self) -> str:
        return f"{self.label} [{self.unit}]" if self.unit else self.label

    @property
    def l0_axis_label(self) -> str:
        return "L0 on clean text [latents per token]" if self.l0 == CLEAN_L0 else "L0 [latents per token]"


@dataclass(frozen=True)
class Catalogue:
    """The words of our families, in the report's order, and those of a user's own, by the keys of the metrics."""

    families: Mapping[str, Family]
    own: Mapping[str, Metric]

    def describe(self, key: str) -> Metric:
        """What is known of a metric; one that is not known stands under its key."""
        found = self._find(key)
        if found is None:
            return self.own.get(key) or Metric(key, key, "", "")
        family, _, wording = found
        meaning = wording.meaning
        return Metric(key, wording.label, wording.unit, meaning, wording.better, wording.headline, family.l0)

    def headlines(self, keys: Iterable[str]) -> list[Metric]:
        """Those of the first screen, in the catalogue's order."""
        return sorted((one for key in keys if (one := self.describe(key)).headline), key=self._place)

    def not_measured(self, keys: Iterable[str]) -> list[str]:
        """What the paper's table calls what it has and these metrics have not."""
        measured = {found[2].in_paper for key in keys if (found := self._find(key)) is not None}
        wanted = [one.in_paper for family in self.families.values() for one in family.wording if one.in_paper]
        return [name for name in dict.fromkeys(wanted) if name not in measured]

    def _find(self, key: str) -> tuple[Family, int, Wording] | None:
        name, _, metric = key.partition("/")
        family = self.families.get(name)
        found = None if family is None else words_of(family.wording, metric)
        return None if family is None or found is None else (family, *found)

    def _place(self, metric: Metric) -> tuple[int, int, str]:
        found = self._find(metric.key)
        if found is None:
            return len(self.families), 0, metric.key
        return list(self.families).index(found[0].name), found[1], metric.key


@cache
def our_catalogue() -> Catalogue:
    """Of the families that are here."""
    return Catalogue({family.name: family for family in our_families()}, {})


def read_words(own: Mapping[str, Any]) -> dict[str, Metric]:
    """How a user's own metrics are called, as results have left it; texts, of which nothing is run.

    Args:
        own: of `results.json`.

    Raises:
        AttributeError, KeyError, TypeError: it is not of that form.
    """
    metrics: dict[str, Metric] = {}
    for family, words in own.get("families", {}).items():
        for name, called in words["metrics"].items():
            key = f"{family}/{name}"
            label, unit, meaning = (str(called[word]) for word in ("label", "unit", "meaning"))
            better: Better = called["better"] if called["better"] in ("higher", "lower") else ""
            metrics[key] = Metric(key, label, unit, meaning, better, bool(called["headline"]), str(words["l0"]))
    return metrics
