"""What the truth says is what the LM computes."""

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.synthetic_lm import build
from masked_sae.activations.synthetic_truth import TABLES, Truth, has_truth, load_truth
from masked_sae.errors import InputError
from masked_sae.text.synthetic import Recipe, synthetic_documents
from support.making import ROOT

COMMITTED = ROOT / "assets" / "ground_truth_lm"
HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_lm(str(COMMITTED), HOOK)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return load_truth(COMMITTED)


def ids(*words: str) -> Tensor:
    vocabulary = Recipe().words()
    return torch.tensor([[vocabulary.index(word) for word in words]])


def some_text(count: int, length: int) -> Tensor:
    """Whole sequences (N, T) as the LM reads them."""
    documents = itertools.islice(synthetic_documents(Recipe()), count)
    return torch.cat([ids("[BOS]", *document.text.split()[: length - 1]) for document in documents])


def assert_truth_is_the_activation(lm: LM, truth: Truth, tokens_NT: Tensor) -> None:
    x_NTD = lm.activations(tokens_NT)
    torch.testing.assert_close(truth.true_features(tokens_NT) @ truth.directions_GD, x_NTD, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 17, 64, 1024])
def test_an_activation_is_the_sum_of_its_features(length: int, lm: LM, truth: Truth) -> None:
    generator = torch.Generator().manual_seed(length)
    tokens_NT = torch.randint(lm.vocab_size, (3, length), generator=generator)  # special tokens anywhere, too
    assert_truth_is_the_activation(lm, truth, tokens_NT)


def test_text_is_the_sum_of_its_features_masked_or_not(lm: LM, truth: Truth) -> None:
    tokens_NT = some_text(6, 64)
    for replacement in range(5):
        masked_NT = tokens_NT.clone()
        masked_NT[:, 3::4] = replacement
        assert_truth_is_the_activation(lm, truth, masked_NT)
    assert_truth_is_the_activation(lm, truth, tokens_NT)


@pytest.mark.parametrize("carried", [0, 3, 5])
def test_any_recipe_has_its_truth(carried: int, tmp_path: Path) -> None:
    recipe = Recipe(seed=9, d_in=24, parents=5, carried_parents=carried, children=4, context_gain=0.7, spread=0.5)
    build(tmp_path / "lm", recipe)
    small, truth = load_lm(str(tmp_path / "lm"), HOOK), load_truth(tmp_path / "lm")
    assert truth.carried_parents == carried
    tokens_NT = torch.randint(small.vocab_size, (4, 30), generator=torch.Generator().manual_seed(0))
    assert_truth_is_the_activation(small, truth, tokens_NT)


def test_the_context_counts_as_its_mean(truth: Truth) -> None:
    """By hand: a token gives `gain * parent / |token|`, as its layer norm divides by `|token| / sqrt(d_in)`,
    but for its epsilon."""
    recipe, names = Recipe(), [feature.name for feature in truth.features]
    tokens_NT = ids("[BOS]", "p0w0", "p12c3w1", "p12w2", "p0c1w0")
    coefficients_TG = truth.true_features(tokens_NT)[0]
    own_TG = truth.own_VG[tokens_NT[0]]

    def given(position: int, parent: int) -> float:
        return (own_TG[position, parent] / own_TG[position].norm()).item() * recipe.context_gain

    carried = own_TG[4, 0] + (given(1, 0) + given(4, 0)) / 5  # a parent that the context adds to
    assert coefficients_TG[4, 0].item() == pytest.approx(carried.item(), rel=1e-3)
    told = (given(2, 12) + given(3, 12)) / 5  # the other kind has a context feature
    assert coefficients_TG[4, names.index("context 12")].item() == pytest.approx(told, rel=1e-3)
    assert coefficients_TG[4, 12] == 0
    assert coefficients_TG[3, 12] == own_TG[3, 12]
    present = {names[g] for g in coefficients_TG[4].nonzero()[:, 0].tolist()}
    assert present == {"parent 0", "child 0.1", "context 12"}


def test_a_masked_token_takes_its_features_along_and_nothing_else(truth: Truth) -> None:
    names = [feature.name for feature in truth.features]
    tokens_NT = ids("[BOS]", "p1w0", "p9c2w0", "p1c0w0", "p9w1")
    masked_NT = tokens_NT.clone()
    masked_NT[0, 2] = 0
    clean_TG, masked_TG = truth.true_features(tokens_NT)[0], truth.true_features(masked_NT)[0]
    assert torch.equal(clean_TG[:2], masked_TG[:2])  # nothing before it
    present = {names[g] for g in masked_TG[2].nonzero()[:, 0].tolist()}
    assert present == {"bos", "parent 1"}  # parent 1 stays: the context carries it; 9 and its child go
    changed = {names[g] for g in (clean_TG[3:] != masked_TG[3:]).any(0).nonzero()[:, 0].tolist()}
    assert changed == {"context 9"}
    lost = truth.context_VG[tokens_NT[0, 2], names.index("context 9")]
    torch.testing.assert_close(
        (clean_TG - masked_TG)[3:, names.index("context 9")], lost / torch.tensor([4.0, 5.0]), atol=1e-6, rtol=1e-5
    )


def test_the_lm_predicts_better_from_its_context_than_without(lm: LM) -> None:
    tokens_NT = some_text(60, 64)
    losses = [
        F.cross_entropy(lm.logits(tokens_NT, edit)[:, :-1].flatten(0, 1), tokens_NT[:, 1:].flatten()).item()
        for edit in (None, torch.zeros_like)
    ]
    assert losses[0] < losses[1] - 0.2


def test_a_folder_without_a_truth_is_refused(neox_folder: Path, tmp_path: Path) -> None:
    assert has_truth(COMMITTED)
    assert not has_truth(neox_folder)
    assert not has_truth(Path("EleutherAI/pythia-70m-deduped"))
    with pytest.raises(InputError, match=r"^lm.name=.*ground_truth"):
        load_truth(neox_folder)
    description = tmp_path / "ground_truth.json"
    for text in ("{", "[]", "{}", '{"recipe": {"seed": 1}}', '{"recipe": 3}'):
        description.write_text(text)
        with pytest.raises(InputError, match=r"^lm.name="):
            load_truth(tmp_path)
    description.write_text((COMMITTED / "ground_truth.json").read_text())
    with pytest.raises(InputError, match=TABLES):
        load_truth(tmp_path)
    tables = load_file(COMMITTED / TABLES)
    save_file(tables | {"own_VG": tables["own_VG"][1:].contiguous()}, tmp_path / TABLES)
    with pytest.raises(InputError, match=TABLES):
        load_truth(tmp_path)


@pytest.mark.parametrize("table", ["directions_GD", "own_VG", "context_VG"])
@pytest.mark.parametrize("damage", ["rows", "infinite", "dtype"])
def test_a_truth_of_another_form_is_refused(table: str, damage: str, tmp_path: Path) -> None:
    made = ROOT / "assets" / "ground_truth_lm"
    (tmp_path / "ground_truth.json").write_text((made / "ground_truth.json").read_text())
    tables = load_file(made / TABLES)
    changed = tables[table].clone()
    if damage == "infinite":
        changed[0, 0] = torch.inf
    tables[table] = {"rows": changed[1:].clone(), "infinite": changed, "dtype": changed.double()}[damage]
    save_file(tables, tmp_path / TABLES)
    with pytest.raises(InputError, match=TABLES):
        load_truth(tmp_path)
