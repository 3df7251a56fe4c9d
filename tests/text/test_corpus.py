import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from masked_sae.errors import InputError
from masked_sae.text.corpus import find_corpus, token_store, tokens_needed
from masked_sae.text.documents import in_validation, stdlib_documents
from masked_sae.text.settings import DataSettings
from support.hub import commit, python, write_cache
from support.making import compose, make_texts, write_jsonl, write_parquet


def data(*overrides: str) -> DataSettings:
    return compose(overrides).data


def text_of(path: Path | str, *overrides: str) -> DataSettings:
    return data("data=text", f"data.path={path}", *overrides)


def test_a_text_corpus_is_named_by_what_it_says(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one" / "a.jsonl", ["x", "y"])
    same = write_jsonl(tmp_path / "two" / "b.jsonl", ["x", "y"])
    other = write_jsonl(tmp_path / "three" / "a.jsonl", ["x", "z"])
    contents = [find_corpus(text_of(path), 10).content for path in (one, same, other)]
    assert contents[0] == contents[1] != contents[2]
    assert find_corpus(text_of(one, "data.column=id"), 10).content != contents[0]


def test_a_text_corpus_reads_all_its_files(corpus_folder: Path, texts: list[str]) -> None:
    found = [d.text for d in find_corpus(text_of(corpus_folder), 10).documents()]
    assert "\n".join(found).split() == "\n".join(texts).split()


def test_a_list_of_paths_is_one_corpus(corpus_folder: Path) -> None:
    both = data("data=text", f"data.path=[{corpus_folder}/b.jsonl,{corpus_folder}/c.parquet]")
    assert len(list(find_corpus(both, 10).documents())) == 110


@pytest.mark.slow
def test_the_stdlib_corpus_is_the_standard_library() -> None:
    corpus = find_corpus(data("data=stdlib"), 10)
    assert corpus.token_limit is None
    assert [d.key for d in corpus.documents()] == [d.key for d in stdlib_documents()]
    assert find_corpus(data("data=stdlib"), 99).content == corpus.content


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
@pytest.mark.parametrize("column", ["text", "body"])
def test_a_dataset_in_a_local_folder_is_streamed_without_a_network(write: Any, column: str, tmp_path: Path) -> None:
    texts = make_texts(30)
    write(tmp_path / f"train.{write.__name__.split('_')[1]}", texts, column=column)
    corpus = find_corpus(data("data=hub", f"data.name={tmp_path}", f"data.column={column}"), 10**6)
    assert [d.text for d in corpus.documents()] == texts


def test_only_the_needed_tokens_of_a_dataset_are_read(tmp_path: Path, neox_tokenizer: Any) -> None:
    texts = make_texts(400)
    write_jsonl(tmp_path / "hub" / "train.jsonl", texts)
    settings = data(
        "data=hub",
        f"data.name={tmp_path}/hub",
        f"data.store_dir={tmp_path}/store",
        "data.validation_share=0.2",
    )
    store = token_store(find_corpus(settings, 5_000), settings, neox_tokenizer, 0, progress=False)
    assert 5_000 <= store.meta.train.tokens <= 5_000 + max(map(len, texts)) + 1
    train = [d.text for d in find_corpus(settings, 5_000).documents() if not in_validation(d.key, 0.2)]
    expected = "<|endoftext|>".join(train).encode()
    assert neox_tokenizer.decode(store.split("train")[:5_000]) == neox_tokenizer.decode(
        neox_tokenizer.encode(expected.decode())[:5_000]
    )


@pytest.mark.parametrize(
    ("overrides", "key", "hint"),
    [
        (["data.name=no-such-owner/no-such-dataset"], "data.name", "data=text"),
        (["data.split=missing"], "data.name", "missing"),
        (["data.column=missing"], "data.column", "body"),
    ],
    ids=["unreachable", "split", "column"],
)
def test_a_dataset_that_cannot_be_read_is_refused_in_one_line(
    overrides: list[str], key: str, hint: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "train.jsonl", ["a", "b"], column="body")
    corpus = find_corpus(data("data=hub", f"data.name={tmp_path}", "data.column=body", *overrides), 10)
    with pytest.raises(InputError) as info:
        list(corpus.documents())
    assert str(info.value).startswith(f"{key}={overrides[0].split('=')[1] if key != 'data.name' else ''}")
    assert hint in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("kept_share", [1.0, 0.5, 0.05])
@pytest.mark.parametrize("train_tokens", [100_000, 1_000_000])
def test_the_needed_tokens_of_a_dataset_suffice_for_the_run(kept_share: float, train_tokens: int) -> None:
    """With a separator every 200 tokens, one of many."""
    from masked_sae.activations.plan import Plan

    settings = data("data=stdlib", f"data.train_tokens={train_tokens}")
    content_length = settings.context_length - 1
    corpus_sequences = tokens_needed(settings, kept_share) // content_length
    plan = Plan.make(
        settings.batch_size, settings.window_tokens, train_tokens, content_length, kept_share * (1 - 1 / 200)
    )
    plan.check_epochs(corpus_sequences, settings.max_epochs)
    with pytest.raises(InputError):
        plan.check_epochs(corpus_sequences // 2, settings.max_epochs)


@pytest.mark.slow
def test_a_dataset_in_the_hubs_cache_is_streamed_without_a_network(tmp_path: Path) -> None:
    """By its name, in a process of its own: the libraries look at HF_HOME once. What is compressed is read."""
    texts = make_texts(30)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "made" / "train").mkdir(parents=True)
    (tmp_path / "made" / "train" / "00.jsonl.zst").write_bytes(zstandard.compress(rows.encode()))
    write_cache(tmp_path / "hub", commit(1), tmp_path / "made", name="somebody/a-set", kind="datasets")
    script = """
import json
from masked_sae.errors import InputError
from masked_sae.text.documents import hub_documents
found = [d.text for d in hub_documents("somebody/a-set", "train", "text", {revision!r})]
lines = []
for name, revision in (("somebody/other", None), ("somebody/a-set", "v2")):
    try:
        list(hub_documents(name, "train", "text", revision))
    except InputError as error:
        lines.append(str(error))
print(json.dumps([found, lines]))
"""
    for revision in (None, commit(1)):
        found, lines = json.loads(python(script.format(revision=revision), tmp_path, HF_HUB_OFFLINE="1"))
        assert found == texts
        for name, line in zip(("somebody/other", "somebody/a-set"), lines, strict=True):
            assert line.startswith(f"data.name={name}: ") and f"`hf download {name} --repo-type dataset`" in line
