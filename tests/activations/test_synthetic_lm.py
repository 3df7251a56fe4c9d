"""The synthetic LM's weights are what its recipe says, bit for bit."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from masked_sae.activations.synthetic_lm import build, main, make_truth
from masked_sae.masks.replacement import replacement_ids
from masked_sae.text.synthetic import DESCRIPTION, Recipe, read_recipe
from masked_sae.text.tokenizer import load_tokenizer, special_tokens
from support.making import ROOT

COMMITTED = ROOT / "assets" / "ground_truth_lm"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground_truth") / "lm"
    build(folder, Recipe())
    return folder


def test_the_committed_lm_is_what_the_command_builds(built: Path) -> None:
    for name in ("model.safetensors", "ground_truth.safetensors"):
        made, committed = load_file(built / name), load_file(COMMITTED / name)
        assert made.keys() == committed.keys()
        for key in made:
            assert torch.equal(made[key], committed[key]), key
    for name in ("tokenizer.json", DESCRIPTION):
        assert json.loads((built / name).read_text()) == json.loads((COMMITTED / name).read_text())
    assert read_recipe(COMMITTED) == Recipe()


def test_the_committed_lm_is_small() -> None:
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) < 2_000_000


def test_another_seed_makes_another_lm() -> None:
    one, other = make_truth(Recipe(seed=0)), make_truth(Recipe(seed=1))
    assert not torch.isclose(one.directions_GD, other.directions_GD, atol=1e-3).any(1).all()
    assert not torch.equal(one.own_VG, other.own_VG)
    assert one.features == other.features


def test_features_outnumber_dimensions_and_only_parents_are_orthogonal() -> None:
    truth = make_truth(Recipe())
    directions_GD, parents = truth.directions_GD.double(), truth.parents
    assert directions_GD.shape[0] > 1.5 * directions_GD.shape[1]
    torch.testing.assert_close(directions_GD.norm(dim=1), torch.ones(len(directions_GD)).double(), atol=1e-6, rtol=0)
    assert directions_GD.mean(1).abs().max() < 1e-7
    cosines_GG = (directions_GD @ directions_GD.T).fill_diagonal_(0).abs()
    assert cosines_GG[:parents].max() < 1e-6
    assert 0.2 < cosines_GG.max() < 0.7


def test_every_content_token_carries_one_parent_and_a_child_implies_its_parent() -> None:
    recipe = Recipe()
    truth = make_truth(recipe)
    children = [g for g, feature in enumerate(truth.features) if feature.kind == "child"]
    for token, word in enumerate(recipe.words()):
        carried = truth.own_VG[token].nonzero()[:, 0].tolist()
        if word.startswith("["):
            assert [truth.features[g].kind for g in carried] == ["special"]
            continue
        parent, _, rest = word.partition("c") if "c" in word else word.partition("w")
        expected = [f"parent {parent[1:]}"] + ([f"child {parent[1:]}.{rest.split('w')[0]}"] if "c" in word else [])
        assert [truth.features[g].name for g in carried] == expected
        assert truth.own_VG[token, carried].min() >= 1 - recipe.spread
        assert truth.own_VG[token, carried].max() <= 1 + recipe.spread
    assert (truth.own_VG[:, children] > 0).any(0).all()  # each occurs
    alone_V = (truth.own_VG > 0).sum(1) == 1
    assert (truth.own_VG[alone_V][:, : truth.parents] > 0).any(0).all()  # each parent stands alone, too


def test_its_tokenizer_has_every_replacement_and_reads_back_its_words(built: Path) -> None:
    tokenizer = load_tokenizer(str(built))
    words = Recipe().words()
    assert tokenizer(" ".join(words), add_special_tokens=False)["input_ids"] == list(range(len(words)))
    assert [replacement_ids(tokenizer, name) for name in ("bos", "eos", "pad", "unk", "mask")] == [
        (0,),
        (1,),
        (2,),
        (3,),
        (4,),
    ]
    special = special_tokens(tokenizer)
    assert (special.prefix, special.suffix, special.separator) == ((0,), (), 1)


def test_the_command_writes_a_new_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "lm"
    monkeypatch.setattr("sys.argv", ["build", str(target), "--seed", "3", "--alone-share", "0.5"])
    main()
    assert read_recipe(target) == Recipe(seed=3, alone_share=0.5)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(SystemExit):
        main()
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert json.loads((target / DESCRIPTION).read_text()) == {"recipe": asdict(Recipe(seed=3, alone_share=0.5))}


@pytest.mark.parametrize("share", ["1.5", "-1", "nan"])
def test_the_command_refuses_a_share_that_is_none(
    share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["build", str(tmp_path / "lm"), f"--alone-share={share}"])
    with pytest.raises(SystemExit):
        main()
    assert "--alone-share from 0 to 1" in capsys.readouterr().err and not (tmp_path / "lm").exists()
