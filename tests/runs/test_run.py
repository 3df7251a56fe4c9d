"""A run is made once; what it reads elsewhere has to be what it was named for."""

import json
from pathlib import Path
from shutil import copytree

import pytest

from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.runs.run import Run, digests_of, find_inputs_of, make_run
from masked_sae.training.train_run import train_run
from support.composing import small_config


@pytest.fixture
def lm(neox_folder: Path, tmp_path: Path) -> Path:
    return copytree(neox_folder, tmp_path / "lm")


@pytest.fixture
def corpus(corpus_folder: Path, tmp_path: Path) -> Path:
    return copytree(corpus_folder, tmp_path / "corpus")


@pytest.fixture
def run(lm: Path, corpus: Path, tmp_path: Path) -> Run:
    return make_run(small_config(lm, corpus, tmp_path), {})


def refusal(run: Run) -> InputError:
    with pytest.raises(InputError) as info:
        train_run(run)
    assert not run.folder.path.exists(), "it trained"
    assert run.named_for is not None and run.folder.run_id in info.value.valid
    return info.value


def test_it_trains_on_what_it_was_named_for(run: Run) -> None:
    assert digests_of(run.config, find_inputs_of(run)) == run.named_for
    assert train_run(run).status == "done"


def test_other_text_on_the_node_is_named_with_its_digests_and_not_trained_on(run: Run, corpus: Path) -> None:
    """A job used to train under another name, and the launcher, watching the first, called it failed."""
    (corpus / "more.txt").write_text("other words\n")
    error = refusal(run)
    assert error.key == "data.path" and error.value == str(corpus)
    assert error.valid.startswith("the text that") and run.named_for is not None
    assert f"digest {run.named_for.text}; here it is text/" in error.valid


def test_other_weights_are_too(run: Run, lm: Path) -> None:
    weights = lm / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    error = refusal(run)
    assert (error.key, error.value) == ("lm.name", str(lm)) and error.valid.startswith("the weights that")


def test_another_tokenizer_is_too(run: Run, lm: Path) -> None:
    path = lm / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["zz"] = len(tokenizer["model"]["vocab"])
    path.write_text(json.dumps(tokenizer))
    error = refusal(run)
    assert error.key == "lm.name" and error.valid.startswith("the tokenizer that")


def test_a_mask_that_is_off_needs_no_token(bert_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    def config(*overrides: str) -> RunConfig:
        return small_config(bert_folder, corpus_folder, tmp_path, "mask.token.replacement=bos", *overrides)

    with pytest.raises(InputError, match=r"mask\.token\.replacement=bos"):
        make_run(config(), {})
    assert make_run(config("mask=none", "mask.token.replacement=bos"), {}).folder.run_id


def test_another_module_than_the_run_was_named_for_is_told_by_its_key(
    lm: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "somebodys_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    source = "from masked_sae.saes.topk import Settings, TopKSAE\n\n\nclass Mine(Settings): ...\n"
    (package / "my_sae.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    chosen = ["sae=topk", "+sae._module_=somebodys_package.my_sae"]
    run = make_run(small_config(lm, corpus, tmp_path, *chosen), {})
    assert train_run(make_run(small_config(lm, corpus, tmp_path / "same", *chosen), {})).status == "done"
    (package / "my_sae.py").write_text(source + "# edited\n")
    assert refusal(run).key == "sae._module_"
