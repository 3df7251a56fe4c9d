"""What a family of metrics is: its name, the settings that its figures depend on, its function and its words."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from masked_sae.evals.settings import EvalSettings
from masked_sae.settings import find_ours, find_own, modules

if TYPE_CHECKING:
    from masked_sae.evals.context import EvalContext, EvaluatedSAE

PACKAGE = "masked_sae.evals"
CLEAN_L0 = "core/l0"
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Wording:
    """How the report calls a metric, or several that are alike.

    Attributes:
        pattern: of its name within the family; a regular expression, whose groups fill the places in label and meaning.
        label: as a heading or the start of a sentence.
        better: which way is better; empty where neither is.
        headline: chosen beforehand for the first screen, so that no metric is picked for what it shows.
        in_paper: what the paper's table calls it, if it is there.
    """

    pattern: str
    label: str
    unit: str
    meaning: str
    better: Better = ""
    headline: bool = False
    in_paper: str = ""


def l0_wording(of: str) -> Wording:
    """Of a family that measures on activations of its own: their L0."""
    return Wording("l0", f"L0 ({of})", "latents per token", "on what was measured")


@dataclass(frozen=True)
class Measured:
    """Of one SAE, by one family.

    Attributes:
        metrics: numbers, without the family's name in front.
        notes: by metric or set of metrics, why it could not be measured, or not as asked.
        details: what the means are made of, as JSON has it.
    """

    metrics: dict[str, float]
    notes: dict[str, str] = field(default_factory=dict[str, str])
    details: dict[str, Any] = field(default_factory=dict[str, Any])


def same_settings(measured: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(key in measured and measured[key] == value for key, value in wanted.items())


@dataclass(frozen=True)
class Family:
    """Attributes:
    name: in `eval.families`, in front of its metrics, and of its file under `evals/`.
    depends_on: those of `EvalSettings` that its figures depend on; what was measured with others is measured again.
    measure: its metrics of one SAE.
    wording: of its metrics, in the report's order.
    l0: the key of the L0 at which runs are compared.
    place: on the report's first screen; lower is further up.
    covers: whether what was measured with some settings (the first) holds for others too.
    together: `measure` of several SAEs, for a family that then has less to do; each one's figures are, to the bit,
        those that it has alone.
    """

    name: str
    depends_on: tuple[str, ...]
    measure: "Callable[[EvaluatedSAE, EvalContext], Measured]"
    wording: tuple[Wording, ...]
    l0: str = CLEAN_L0
    place: int = 100
    covers: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = same_settings
    together: "Callable[[Sequence[EvaluatedSAE], EvalContext], list[Measured]] | None" = None

    def measure_all(self, several: "Sequence[EvaluatedSAE]", context: "EvalContext") -> list[Measured | Exception]:
        """Of each SAE what is measured, or why it is not: what one of them raises is its own."""
        if self.together is not None and len(several) > 1:
            with suppress(Exception):  # whose it was shows when each is measured alone
                return list(self.together(several, context))
        return [self._measure_one(evaluated, context) for evaluated in several]

    def _measure_one(self, evaluated: "EvaluatedSAE", context: "EvalContext") -> Measured | Exception:
        try:
            return self.measure(evaluated, context)
        except Exception as error:  # noqa: BLE001
            return error


def find_family(name: str, settings: EvalSettings) -> Family:
    """One of ours, or of the user's own.

    Raises:
        InputError: there is no such family.
    """
    own = settings.own.get(name)
    if own is not None and own._module_ is not None:  # pyright: ignore[reportPrivateUsage] - a key of the configuration
        module: str = own._module_  # pyright: ignore[reportPrivateUsage]
        return find_own(module, "FAMILY", f"eval.own.{name}._module_", lambda found: _is_family(found, name))
    return find_ours(PACKAGE, "FAMILY", "eval.families", name)


def _is_family(found: Any, name: str) -> bool:
    return isinstance(found, Family) and found.name == name


def our_families() -> list[Family]:
    """In the report's order."""
    found: list[Family] = [family for _, family in modules(PACKAGE, "FAMILY")]
    return sorted(found, key=lambda family: family.place)


def words_of(wording: Sequence[Wording], name: str) -> tuple[int, Wording] | None:
    """What a metric is called, by its name within its family, and the place of that in the family's wording; None where
    nothing is known of it.
    """
    for place, one in enumerate(wording):
        if match := re.fullmatch(one.pattern, name):
            parts = [(part or "").replace("_", " ") for part in match.groups()]
            found = replace(one, pattern=name, label=one.label.format(*parts), meaning=one.meaning.format(*parts))
            return place, found
    return None
