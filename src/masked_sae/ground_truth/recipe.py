"""What a synthetic LM and its text are made from, and the vocabulary that they share.

A folder holds the LM as an ordinary Hugging Face checkpoint, and beside it `ground_truth.json` with the recipe.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from masked_sae.errors import InputError

DESCRIPTION = "ground_truth.json"
SPECIAL_WORDS = {"bos": "[BOS]", "eos": "[EOS]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}  # ids 0, 1, …

Kind = Literal["parent", "child", "context", "special"]


@dataclass(frozen=True)
class Feature:
    """Attributes:
    parent: of a child, the index of its parent; of a context feature, the parent that it tells of.
    """

    name: str
    kind: Kind
    parent: int | None = None


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    seed: of the LM's weights and of the text.
    d_in: of an activation.
    parents: general features; every content token carries one.
    carried_parents: the first of them. What the context says of these adds to the parent itself; what it says of
        the others is a feature of its own.
    children: of each parent: specific features, which occur with their parent only.
    words_alone: tokens of each parent that carry no child.
    words_per_child: tokens of each child; each mixes parent and child in another proportion.
    spread: a token's coefficients are uniform in `1 - spread` to `1 + spread`.
    context_gain: coefficient that a context of nothing but one parent, without children, would give.
    topics: a document is about one of them.
    parents_per_topic: parents that a topic favours; the chance of each falls with its rank, as 1/rank.
    background: share of tokens drawn as if there were no topics.
    alone_share: share of a parent's tokens that carry no child.
    shortest, longest: tokens of a document, uniform.
    """

    seed: int = 0
    d_in: int = 64
    parents: int = 16
    carried_parents: int = 8
    children: int = 6
    words_alone: int = 4
    words_per_child: int = 3
    spread: float = 0.2
    context_gain: float = 2.0
    topics: int = 16
    parents_per_topic: int = 4
    background: float = 0.2
    alone_share: float = 0.15
    shortest: int = 64
    longest: int = 192

    @property
    def words_of_a_parent(self) -> int:
        return self.words_alone + self.children * self.words_per_child

    def words(self) -> list[str]:
        """The vocabulary in the order of its ids: special words, then parent by parent those alone and by child."""
        words = list(SPECIAL_WORDS.values())
        for parent in range(self.parents):
            words += [f"p{parent}w{word}" for word in range(self.words_alone)]
            words += [f"p{parent}c{c}w{word}" for c in range(self.children) for word in range(self.words_per_child)]
        return words

    def ids_of(self, parent: int) -> range:
        first = len(SPECIAL_WORDS) + parent * self.words_of_a_parent
        return range(first, first + self.words_of_a_parent)

    def child_of(self, word: int) -> int | None:
        """Which of its parent's children a parent's word number `word` carries."""
        return None if word < self.words_alone else (word - self.words_alone) // self.words_per_child

    def features(self) -> tuple[Feature, ...]:
        """In their order: parents, children parent by parent, context features, special tokens."""
        features = [Feature(f"parent {p}", "parent") for p in range(self.parents)]
        features += [Feature(f"child {p}.{c}", "child", p) for p in range(self.parents) for c in range(self.children)]
        features += [Feature(f"context {p}", "context", p) for p in range(self.carried_parents, self.parents)]
        features += [Feature(name, "special") for name in SPECIAL_WORDS]
        return tuple(features)


def read_recipe(folder: Path, key: str = "data.path") -> Recipe:
    """The recipe in a folder.

    Raises:
        InputError: of `key`; the folder holds no description that can be read.
    """
    path = folder.expanduser() / DESCRIPTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        if set(values) != {field.name for field in fields(Recipe)}:
            raise KeyError
        return Recipe(**values)
    except (OSError, ValueError, KeyError, TypeError):
        valid = f"the folder of a synthetic LM, such as assets/ground_truth_lm (this one has no readable {DESCRIPTION})"
        raise InputError(key, folder, valid) from None
