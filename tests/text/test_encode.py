"""Text is text: no special token comes of it, however it is spelled; and all else stays as it was."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from masked_sae.text.documents import text_documents
from masked_sae.text.store import open_or_build
from masked_sae.text.tokenizer import encode, load_tokenizer, special_tokens, tokenizer_digest
from support.making import ROOT, write_jsonl

KINDS = ("neox", "bert", "words", "unigram", "slow", "gpt2")
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def unigram() -> Any:
    """As T5's: its vocabulary holds `</s>` as a piece like any other."""
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz</>"]
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_special_tokens=["<x>"]
    )


@pytest.fixture(scope="module")
def tokenizers(neox_tokenizer: Any, bert_tokenizer: Any, neox_folder: Path) -> dict[str, Any]:
    gpt2 = copy.deepcopy(load_tokenizer(str(neox_folder)))  # the process shares the one that is read
    gpt2.unk_token = gpt2.eos_token  # one special token with two names
    return {
        "neox": neox_tokenizer,
        "bert": bert_tokenizer,
        "words": load_tokenizer(str(ROOT / "assets" / "ground_truth_lm")),
        "unigram": unigram(),
        "slow": ByT5Tokenizer(),
        "gpt2": gpt2,
    }


def spelled(tokenizer: Any) -> list[str]:
    return [*tokenizer.all_special_tokens, "<|endoftext|>", "[SEP]", "</s>"]


def of_words(tokenizer: Any) -> st.SearchStrategy[str]:
    """Texts of pieces among which special tokens are spelled, whole, in halves and run together."""
    pieces = [*spelled(tokenizer), *(part[:2] for part in spelled(tokenizer)), "the", " ", "\n", "p0w1", "é", "x"]
    return st.lists(st.one_of(st.sampled_from(pieces), st.text(st.characters(exclude_categories=["Cs"])))).map("".join)


@pytest.mark.parametrize("kind", KINDS)
def test_no_special_token_comes_of_a_text(kind: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[kind]
    unknown = {"bert": "[UNK]", "words": "[UNK]", "unigram": "<unk>", "slow": "<unk>"}.get(kind)
    special = set(special_tokens(tokenizer).ids) - {tokenizer.convert_tokens_to_ids(unknown) if unknown else None}
    assert special

    @QUICK
    @given(texts=st.lists(of_words(tokenizer), max_size=4))
    def holds(texts: list[str]) -> None:
        encoded = encode(tokenizer, texts)
        assert len(encoded) == len(texts)
        assert all(special.isdisjoint(ids) for ids in encoded)

    holds()
    if kind not in ("bert", "words"):  # whose letters are unknown words
        assert all(encode(tokenizer, [f"a{one}b"])[0] for one in spelled(tokenizer))


@pytest.mark.parametrize("kind", KINDS)
def test_text_without_special_spellings_has_the_ids_that_it_had(kind: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[kind]

    @QUICK
    @given(text=of_words(tokenizer))
    def holds(text: str) -> None:
        for one in (*spelled(tokenizer), "[", "<"):
            text = text.replace(one, "")
        assert encode(tokenizer, [text]) == tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"]

    holds()


def test_what_a_special_token_is_spelled_with_stays(tokenizers: dict[str, Any]) -> None:
    text = "a <|endoftext|> b"
    assert tokenizers["neox"].decode(encode(tokenizers["neox"], [text])[0]) == text
    assert tokenizers["slow"].decode(encode(tokenizers["slow"], ["a</s>b"])[0]) == "a</s>b"
    assert "".join(tokenizers["unigram"].convert_ids_to_tokens(encode(tokenizers["unigram"], ["a</s>b"])[0])) in (
        "▁a▁<▁/s>b",
        "▁a</s>b",
    )
    assert encode(tokenizers["words"], ["p0w1 [BOS] p0w1"]) == encode(tokenizers["words"], ["p0w1 unheard p0w1"])


@pytest.mark.parametrize("kind", ["neox", "slow"])
def test_added_tokens_that_are_not_special_stay_whole(kind: str, neox_folder: Path) -> None:
    tokenizer = copy.deepcopy(load_tokenizer(str(neox_folder))) if kind == "neox" else ByT5Tokenizer()
    tokenizer.add_tokens([AddedToken("<tab>")])
    (ids,) = encode(tokenizer, [f"a<tab>{tokenizer.eos_token}<tab>"])
    assert ids.count(tokenizer.convert_tokens_to_ids("<tab>")) == 2
    assert tokenizer.eos_token_id not in ids


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_stays_as_it_was(
    kind: str, tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = tokenizers[kind]
    monkeypatch.setattr(tokenizer, "model_max_length", 8)
    text = f"a {tokenizer.all_special_tokens[0]} b" * 9
    before, digest = tokenizer([text])["input_ids"], tokenizer_digest(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    caplog.clear()
    encode(tokenizer, [text, ""])
    assert not caplog.records
    assert backend is None or backend.encode_special_tokens is False
    assert tokenizer([text])["input_ids"] == before and tokenizer_digest(tokenizer) == digest


def test_a_store_of_text_that_spells_a_special_token_holds_its_characters(neox_tokenizer: Any, tmp_path: Path) -> None:
    """A third of this text is the end of a text, spelled; it was taken for one, and cut out of what is trained on."""
    file = write_jsonl(tmp_path / "a.jsonl", [f"text {i} <|endoftext|> and an injection" for i in range(40)])
    separator = neox_tokenizer.eos_token_id
    store = open_or_build(
        tmp_path / "store", "key", text_documents([file]), neox_tokenizer, separator, 0.3, progress=False
    )
    for split, meta in (("train", store.meta.train), ("validation", store.meta.validation)):
        assert int((store.split(split) == separator).sum()) == meta.documents
    tokens = [token for token in store.split("train").tolist() if token != separator]
    assert neox_tokenizer.decode(tokens).count("<|endoftext|>") == store.meta.train.documents
