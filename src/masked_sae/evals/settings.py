"""What is measured, on how much text: the keys under `eval`. They change no run's id, and may change after training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from masked_sae import checks
from masked_sae.settings import OwnModule, neutral, setting

CONCEPT_SETS = ("token_class", "python_syntax", "prose", "first_letter")
_MULTIPLIED = ("batch_size", "text_tokens")


@dataclass(kw_only=True)
class FamilySettings(OwnModule):
    """Settings of a user's own family of metrics: `Settings` in its module derives from this."""

    def check(self, key: str) -> None:
        """Refuses what cannot work.

        Args:
            key: of these settings, such as `eval.own.my_family`.
        """


@dataclass(kw_only=True)
class EvalSettings:
    families: list[str]
    seed: int
    tokens: int = setting(unit="activations")  # held out: core, ground_truth
    batch_size: int = setting(unit="sequences")  # per forward with the SAE spliced in
    dense_frequency: float  # a latent that fires more often than this is dense
    concepts: list[str]  # absorption: sets of concepts
    concept_tokens: int  # absorption: positions, of all sets but first_letter
    concept_words: int | None  # absorption: words of first_letter; null: the whole vocabulary
    text_tokens: int  # sparse_probing, tpp, scr, ood: tokens of a text
    texts_per_class: int | None  # of either split; null: all there are
    cache_dir: str
    tasks: list[Any] = field(default_factory=list[Any])  # labelled texts; empty: the standard library's
    own: dict[str, FamilySettings] = neutral({})  # noqa: RUF009 - a field; users' own families, by name

    def check(self) -> None:
        """Refuses what cannot work, as far as the settings alone tell.

        Raises:
            InputError: of the first that is wrong.
        """
        for concepts in self.concepts:
            checks.one_of("eval.concepts", concepts, CONCEPT_SETS)
        checks.seed("eval.seed", self.seed)
        for key in ("tokens", "batch_size", "concept_tokens", "concept_words", "text_tokens", "texts_per_class"):
            value = getattr(self, key)
            if value is not None:
                checks.count(f"eval.{key}", value, most=checks.MOST_AT_ONCE if key in _MULTIPLIED else checks.MOST)
        checks.path("eval.cache_dir", self.cache_dir)
        checks.share("eval.dense_frequency", self.dense_frequency)
        for name, settings in self.own.items():
            settings.check(f"eval.own.{name}")

    def of(self, family: str, names: tuple[str, ...]) -> dict[str, Any]:
        """Some of these settings, and a family's own, as JSON has them."""
        own: Mapping[str, Any] = {} if family not in self.own else {"own": asdict(self.own[family])}
        return {name: getattr(self, name) for name in names} | dict(own)
