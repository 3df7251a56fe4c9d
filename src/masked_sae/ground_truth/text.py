"""The text that a synthetic LM is read on: documents about topics, endless, each a function of seed and index.

Axes: K topics, P parents, V vocabulary.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from masked_sae.documents import Document
from masked_sae.ground_truth.recipe import Recipe
from masked_sae.randomness import numpy_generator


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
