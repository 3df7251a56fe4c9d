"""A synthetic LM's recipe, the vocabulary and the text that follow from it.

A folder holds the LM as an ordinary Hugging Face checkpoint, and beside it `ground_truth.json` with the recipe. The
text is documents about topics, endless, each a function of seed and index.

Axes: K topics, P parents, V vocabulary.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from masked_sae.bundled import find_folder
from masked_sae.errors import InputError
from masked_sae.randomness import numpy_generator
from masked_sae.text.documents import Document

DESCRIPTION = "ground_truth.json"
SPECIAL_WORDS = {"bos": "[BOS]", "eos": "[EOS]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}  # ids 0, 1, …

_MOST_WORDS = 2**20  # of a vocabulary, and of a document: more is no recipe but a mistake

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

    def check(self) -> None:
        """Raises:
        ValueError: of a value that no recipe has, of another type or size.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int if isinstance(field.default, int) else int | float):
                raise ValueError(field.name)
            if not 0 <= value < 2**32:
                raise ValueError(field.name)
        counts = (self.d_in, self.parents, self.children, self.words_per_child, self.topics, self.parents_per_topic)
        shares = (self.spread, self.background, self.alone_share)
        in_order = (1, self.shortest, self.longest, _MOST_WORDS)
        if not (
            min(counts) >= 1
            and max(shares) <= 1
            and self.carried_parents <= self.parents
            and self.parents_per_topic <= self.parents
            and max(self.d_in, self.topics, self.parents * self.words_of_a_parent) <= _MOST_WORDS
            and list(in_order) == sorted(in_order)
        ):
            raise ValueError("sizes")

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
    try:
        path = find_folder(str(folder)) / DESCRIPTION
        values = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        if set(values) != {field.name for field in fields(Recipe)}:
            raise KeyError
        recipe = Recipe(**values)
        recipe.check()
        return recipe
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # RuntimeError: nested without end; no such home
        valid = f"the folder of a synthetic LM, such as assets/ground_truth_lm (this one has no readable {DESCRIPTION})"
        raise InputError(key, folder, valid) from None


def synthetic_documents(recipe: Recipe) -> Iterator[Document]:
    """Documents without end. The tokens of one are independent of each other, given its topic.

    Topic and length are uniform. A topic favours some parents; within a parent the children, and within a child its
    words, follow Zipf's law: the chance falls as 1/rank.
    """
    words = np.array(recipe.words())
    cumulated_KV = topic_shares(recipe).cumsum(1)
    cumulated_KV /= cumulated_KV[:, -1:]
    for index in itertools.count():
        rng = numpy_generator(recipe.seed, "synthetic document", index)
        topic, length = rng.integers(recipe.topics), rng.integers(recipe.shortest, recipe.longest, endpoint=True)
        ids = cumulated_KV[topic].searchsorted(rng.random(length), side="right")
        yield Document(key=f"synthetic/{recipe.seed}/{index}", text=" ".join(words[ids]))


def topic_shares(recipe: Recipe) -> NDArray[np.float64]:
    """(K, V) chance of each token in a document about each topic."""
    rng = numpy_generator(recipe.seed, "synthetic topics")
    parents_KP = np.full((recipe.topics, recipe.parents), recipe.background / recipe.parents)
    for topic in range(recipe.topics):
        # One parent of each topic in turn, so that none is without a topic; the others by chance.
        first = topic % recipe.parents
        others = rng.permutation(np.setdiff1d(np.arange(recipe.parents), [first]))[: recipe.parents_per_topic - 1]
        parents_KP[topic, [first, *others]] += (1 - recipe.background) * _zipf(recipe.parents_per_topic)
    shares_KV = np.zeros((recipe.topics, len(recipe.words())))
    for parent in range(recipe.parents):
        shares_KV[:, recipe.ids_of(parent)] = parents_KP[:, parent, None] * _word_shares(recipe)
    return shares_KV


def _word_shares(recipe: Recipe) -> NDArray[np.float64]:
    """Chance of each of a parent's words."""
    alone = recipe.alone_share * _zipf(recipe.words_alone)
    with_child = (1 - recipe.alone_share) * np.outer(_zipf(recipe.children), _zipf(recipe.words_per_child))
    return np.concatenate([alone, with_child.ravel()])


def _zipf(count: int) -> NDArray[np.float64]:
    weights = 1 / np.arange(1, count + 1)
    return weights / weights.sum()
