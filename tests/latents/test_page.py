"""From a run's folder to the files of its page."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masked_sae.errors import InputError
from masked_sae.latents.build import PageSettings, write_pages
from masked_sae.latents.columns import Tokens
from masked_sae.latents.page import write_page
from masked_sae.latents.token_texts import token_texts
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import read_results
from masked_sae.sweeps.local import train_alone
from support.composing import small_overrides
from support.made_latents import FACTS, make_latents
from support.making import compose

ASKED = PageSettings(tokens=512, contexts=3)  # eval.tokens of the small run


@pytest.fixture(scope="module")
def overrides(neox_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return small_overrides(neox_folder, corpus_folder, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def run(overrides: list[str]) -> RunFolder:
    config = compose(overrides)
    train_alone(config)
    (folder,) = (path for path in (Path(config.output_dir) / config.name).iterdir() if path.is_dir())
    return RunFolder(folder)


@pytest.fixture(scope="module")
def page(run: RunFolder, overrides: list[str]) -> Path:
    page, absorption = write_pages(run.path, compose(overrides), overrides, ASKED)
    assert absorption == run.absorption()
    return page


def handed_over(script: Path) -> dict[str, Any]:
    """What one of the data's scripts hands over."""
    text = script.read_text(encoding="ascii")
    found: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    for key, (code, packed) in found.pop("arrays").items():
        found[key] = np.frombuffer(base64.b64decode(packed), f"<{code}")
    return found


def test_its_figures_are_those_of_the_core_metrics(page: Path, run: RunFolder) -> None:
    index = handed_over(page.parent / "latents_data" / "index.js")
    metrics = read_results(run).metrics
    assert index["tokens"] == metrics["core/tokens"] and index["latents"] == 64
    assert index["count"].sum() / index["tokens"] == pytest.approx(metrics["core/l0"], rel=1e-6)
    assert (index["count"] == 0).mean() == pytest.approx(metrics["core/dead_latents"])
    assert (index["mean"] * index["count"]).sum() / index["tokens"] == pytest.approx(metrics["core/l1"], rel=1e-4)


def test_contexts_point_at_the_text_they_are_of(page: Path) -> None:
    data = page.parent / "latents_data"
    index, text, file = (handed_over(data / f"{name}.js") for name in ("index", "text", "latents-0"))
    there = index["topFirst"] != 2**32 - 1
    assert there.any() and (index["topFirst"][there] + index["width"] <= len(text["text"])).all()
    window = file["topWindow"].reshape(64, 3, index["width"])
    largest = np.flatnonzero(index["count"])
    at = index["topAt"].reshape(64, 3)[largest, 0]
    assert (window[largest, 0, at] == 255).all()  # a latent's strongest activation has the full shade
    assert text["tokens"] == sorted(text["tokens"], key=lambda one: (one.strip().lower(), one))
    promoted = [text["tokens"][place] for place in index["raised"][:8]]
    assert len(set(promoted)) == 8


def test_it_is_written_again_over_the_former_one(page: Path, run: RunFolder, overrides: list[str]) -> None:
    before = {path.name for path in run.path.iterdir()}
    former = handed_over(page.parent / "latents_data" / "index.js")
    assert write_pages(run.path / "sae", compose(overrides), overrides, ASKED)[0] == page
    index = handed_over(page.parent / "latents_data" / "index.js")
    assert index["stamp"] in page.read_text() and index["stamp"] != former["stamp"]
    assert np.array_equal(index["count"], former["count"])
    assert {path.name for path in run.path.iterdir()} == before


def test_what_stands_on_the_command_line_goes_first(run: RunFolder, overrides: list[str]) -> None:
    other = "lm.hook_name=blocks.7.hook_resid_post"
    with pytest.raises(InputError, match=other):
        write_pages(run.path, compose([*overrides, other]), [other], ASKED)


def test_what_cannot_be_looked_at_is_told_in_a_line(run: RunFolder, overrides: list[str], tmp_path: Path) -> None:
    settings = compose(overrides)
    with pytest.raises(InputError, match=r"run=.* holds no config.yaml"):
        write_pages(tmp_path, settings, overrides, ASKED)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_bytes(run.config.read_bytes())
    with pytest.raises(InputError, match=r"run=.* no SAE yet"):
        write_pages(unfinished, settings, overrides, ASKED)
    for wrong in (0, "many", True, None, 1.5):
        with pytest.raises(InputError, match="tokens="):
            PageSettings(tokens=wrong, contexts=3).check()
        with pytest.raises(InputError, match="contexts="):
            PageSettings(tokens=3, contexts=wrong).check()


def test_nothing_of_the_texts_can_end_a_script(tmp_path: Path) -> None:
    texts = {0: "</script><script>", 1: "<!--", 2: "\u2028", 3: "\ud800", 4: "é"}
    page = write_page(tmp_path, make_latents(4, texts, length=100), FACTS | {"latents": 4, "run": "<b>"})
    scripts = [
        path
        for path in (tmp_path / "latents_data").glob("*.js")
        if path.name not in ("loading.js", "list.js", "page.js")
    ]
    assert len(scripts) == 3
    for script in scripts:
        assert "<" not in script.read_text(encoding="ascii")
    assert handed_over(tmp_path / "latents_data" / "text.js")["tokens"] == sorted(
        texts.values(), key=lambda one: (one.strip().lower(), one)
    )
    assert "<b>" not in page.read_text().replace("<b>4</b>", "").split("<h1>")[1].split("</h1>")[0]


def test_tokens_are_in_the_order_of_their_texts() -> None:
    tokens = Tokens({7: " b", 3: "a", 5: "C"})
    assert tokens.texts == ["a", " b", "C"]
    assert tokens.places(np.array([5, 3, 7, 7])).tolist() == [2, 0, 1, 1]
    assert tokens.places(np.array([5])).dtype == np.uint16
    assert Tokens({token: str(token) for token in range(2**16 + 1)}).places(np.array([5])).dtype == np.uint32


def test_a_token_reads_as_behind_another(neox_tokenizer: Any, bert_tokenizer: Any) -> None:
    ids = neox_tokenizer(" é", add_special_tokens=False)["input_ids"]
    assert token_texts(neox_tokenizer, ids) == [" ", "Ã", "©"]  # half a character, as the vocabulary writes it
    assert token_texts(neox_tokenizer, [0, 259]) == ["<|endoftext|>", "[259]"]
    ids = bert_tokenizer("the ab", add_special_tokens=False)["input_ids"]
    assert token_texts(bert_tokenizer, ids) == [" the", " a", "b"]
