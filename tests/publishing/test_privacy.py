"""Of places on the maker's machine nothing is left but the last part; all else stays as it is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masked_sae.publishing.privacy import names_a_place, private_places, public_command, public_settings, public_values
from masked_sae.settings import leaves
from support.making import compose

HOME = "/home/ada_lovelace"
NAMES = st.text("abcXYZ019_-", min_size=1, max_size=8)
PLACES = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/".join([HOME, *parts]))
WORDS = st.sampled_from(["core/l0", "https://huggingface.co/a/b", "tokens / s", "k=16", "EleutherAI/pythia", "x̂", ""])
TEXTS = st.lists(st.one_of(PLACES, WORDS), min_size=1, max_size=4).map(" ".join)
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)


@given(VALUES)
def test_no_place_is_left_and_nothing_changes_twice(value: Any) -> None:
    public = public_values(value)
    assert HOME not in json.dumps(public)
    assert public_values(public) == public
    assert [key for key, _ in leaves(public)] == [key for key, _ in leaves(value)]


@pytest.mark.parametrize(
    ("text", "public"),
    [
        (f"{HOME}/models/pythia", "pythia"),
        ("~/corpus/a b.jsonl", "a b.jsonl"),
        ("../other/corpus", "corpus"),
        (r"C:\Users\ada\lm", "lm"),
        ("file:///home/ada_lovelace/x.txt", "x.txt"),
        (f"no words in {HOME}/texts/a.txt: skipped", "no words in a.txt: skipped"),
        (f"data.path=[{HOME}/a.txt,{HOME}/b.txt]", "data.path=[a.txt,b.txt]"),
    ],
)
def test_of_a_path_the_last_part_is_left(text: str, public: str) -> None:
    assert public_values(text) == public


@pytest.mark.parametrize(
    "text",
    ["EleutherAI/pythia-160m", "assets/tiny_lm", "core/l0", "/", "~", "and/or", "https://hf.co/a/b", "1 / 2", ""],
)
def test_what_is_no_path_of_a_machine_stays(text: str) -> None:
    assert public_values(text) == text


def test_a_configuration_keeps_all_that_a_result_depends_on() -> None:
    settings = asdict(compose(["logger.wandb.entity=engine", "logger.wandb.tags=[a]", f"output_dir={HOME}/runs"]))
    public = public_settings(settings)
    before, after = dict(leaves(settings)), dict(leaves(public))
    changed = [key for key in before if before[key] != after.get(key)]
    assert all(key.startswith(("logger.", "output_dir", "data.store_dir", "eval.cache_dir")) for key in changed)
    assert (public["logger"]["wandb"]["entity"], public["logger"]["wandb"]["tags"]) == (None, [])
    assert settings["logger"]["wandb"]["entity"] == "engine"


def test_a_command_is_left_without_where_and_how() -> None:
    words = ["+sweep=mask_rate", "logger.wandb.entity=me", f"output_dir={HOME}", "++pack=1", f"lm.name={HOME}/lm"]
    assert public_command(words) == ["+sweep=mask_rate", "lm.name=lm"]


def test_a_page_that_names_where_a_run_lies_is_found(tmp_path: Path) -> None:
    run, page = tmp_path / "R&D" / "runs" / "a", tmp_path / "page.html"
    run.mkdir(parents=True)
    for content, found in ((f"<p>{tmp_path}/R&amp;D/runs", True), (f'"{run.parent}/b"', True), ("<p>/nowhere", False)):
        page.write_text(content)
        assert names_a_place(page, private_places([run])) is found
