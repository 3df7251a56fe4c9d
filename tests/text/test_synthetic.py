"""Synthetic text: the same each time, with the frequencies that its recipe asks for."""

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masked_sae.errors import InputError
from masked_sae.runs.run import make_run
from masked_sae.text.corpus import find_corpus, token_store
from masked_sae.text.synthetic import Recipe, read_recipe, synthetic_documents, topic_shares
from masked_sae.text.tokenizer import load_tokenizer
from masked_sae.training.train_run import train_run
from support.making import ROOT, compose

COMMITTED = ROOT / "assets" / "ground_truth_lm"


def first(count: int, recipe: Recipe) -> list[list[str]]:
    return [document.text.split() for document in itertools.islice(synthetic_documents(recipe), count)]


def test_the_same_seed_gives_the_same_documents_and_another_gives_others() -> None:
    documents = list(itertools.islice(synthetic_documents(Recipe()), 20))
    assert documents == list(itertools.islice(synthetic_documents(Recipe()), 20))
    others = list(itertools.islice(synthetic_documents(Recipe(seed=1)), 20))
    assert not {d.text for d in documents} & {d.text for d in others}
    assert len({d.key for d in [*documents, *others]}) == 40
    assert len({d.text for d in documents}) == 20


def test_documents_have_the_lengths_and_words_of_the_recipe() -> None:
    recipe = replace(Recipe(), shortest=3, longest=6)
    documents = first(200, recipe)
    assert {len(words) for words in documents} == {3, 4, 5, 6}
    assert {word for words in documents for word in words} <= set(recipe.words()[5:])


def test_tokens_have_the_shares_of_their_topics() -> None:
    recipe = Recipe()
    shares_KV = topic_shares(recipe)
    np.testing.assert_allclose(shares_KV.sum(1), 1)
    assert (shares_KV[:, :5] == 0).all()  # special tokens are nobody's words
    expected_V = shares_KV.mean(0)
    index = {word: token for token, word in enumerate(recipe.words())}
    documents = first(600, recipe)
    tokens = np.array([index[word] for words in documents for word in words])
    counted_V = np.bincount(tokens, minlength=len(expected_V)) / len(tokens)
    assert np.abs(counted_V - expected_V).sum() / 2 < 0.06  # total variation
    np.testing.assert_array_equal(counted_V[expected_V == 0], 0)


def test_shares_follow_zipf_within_a_parent() -> None:
    """By hand: two words alone (a third in all), two children of two words (the rest)."""
    recipe = Recipe(parents=1, carried_parents=0, children=2, words_alone=2, words_per_child=2, alone_share=1 / 3)
    recipe = replace(recipe, topics=1, parents_per_topic=1)
    alone = [2 / 9, 1 / 9]
    children = [2 / 3 * child * word for child in (2 / 3, 1 / 3) for word in (2 / 3, 1 / 3)]
    np.testing.assert_allclose(topic_shares(recipe)[0, 5:], [*alone, *children])


def test_parents_of_one_topic_occur_together() -> None:
    recipe = Recipe()
    documents = [[word.partition("c")[0].partition("w")[0] for word in words] for words in first(300, recipe)]
    rng = np.random.default_rng(0)
    chance = np.mean([rng.choice(a) == rng.choice(b) for a, b in itertools.pairwise(documents) for _ in range(20)])
    within = np.mean([rng.choice(a) == rng.choice(a) for a in documents for _ in range(20)])
    assert within > 2 * chance


def test_the_source_reads_the_description_beside_the_lm(tmp_path: Path) -> None:
    settings = compose(["lm=ground_truth", "data=synthetic", f"data.store_dir={tmp_path}"]).data
    assert settings.path == ["assets/ground_truth_lm"]
    settings.path = [str(COMMITTED)]
    corpus = find_corpus(settings, 5000)
    texts = [d.text for d in itertools.islice(corpus.documents(), 5)]
    assert texts == [d.text for d in itertools.islice(synthetic_documents(Recipe()), 5)]
    store = token_store(corpus, settings, load_tokenizer(str(COMMITTED)), 1, progress=False)
    assert 5000 <= store.meta.train.tokens <= 5000 + Recipe().longest + 1
    (tmp_path / "other").mkdir()
    description = (COMMITTED / "ground_truth.json").read_text()
    (tmp_path / "other" / "ground_truth.json").write_text(description.replace('"seed": 0', '"seed": 1'))
    settings.path = [str(tmp_path / "other")]
    assert find_corpus(settings, 5000).content != corpus.content


def test_an_lm_without_a_description_has_no_synthetic_text() -> None:
    with pytest.raises(InputError, match=r"^data.path=.*assets/ground_truth_lm"):
        find_corpus(compose(["lm=tiny", "data=synthetic"]).data, 10)


def test_a_run_trains_on_it(tmp_path: Path) -> None:
    settings = [
        "experiment=ground_truth",
        f"lm.name={COMMITTED}",
        "mask.token.rate=0.2",
        "data.train_tokens=20_000",
        f"data.store_dir={tmp_path / 'store'}",
        "eval.tokens=2000",
        f"output_dir={tmp_path / 'runs'}",
        "logger.wandb.mode=disabled",
        "trainer.progress=false",
        "trainer.threads=1",
        "trainer.device=cpu",
    ]
    assert train_run(make_run(compose(settings), {})).status == "done"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "0"},
        {"parents": 0},
        {"parents": 10**12},
        {"parents": 4.5},
        {"seed": -1},
        {"carried_parents": 99},
        {"parents_per_topic": 99},
        {"shortest": 0},
        {"longest": 1},
        {"background": 2.0},
        {"spread": float("nan")},
        {"alone_share": True},
        {"topics": [[]]},
    ],
)
def test_a_recipe_that_none_can_follow_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    recipe = asdict(Recipe()) | change
    (tmp_path / "ground_truth.json").write_text(json.dumps({"recipe": recipe}))
    with pytest.raises(InputError, match="the folder of a synthetic LM"):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"recipe": 5}', "[" * 200_000, '{"recipe": ' + "9" * 10_000 + "}"]
)
def test_a_description_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "ground_truth.json").write_text(content)
    for folder in (tmp_path, Path("~nobody-of-this-name/lm")):
        with pytest.raises(InputError, match="the folder of a synthetic LM"):
            read_recipe(folder)
