import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from masked_sae.errors import InputError
from masked_sae.text.tokenizer import load_tokenizer, special_tokens, tokenizer_digest


@pytest.fixture
def folder(neox_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(neox_folder, tmp_path / "lm")
    return tmp_path / "lm"


def change(folder: Path, file: str = "tokenizer.json", **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_tokenizer_is_read_once_by_a_process(folder: Path) -> None:
    first = load_tokenizer(str(folder))
    assert load_tokenizer(str(folder)) is first
    assert load_tokenizer(f"{folder}/../lm") is first


def test_a_tokenizer_that_changed_is_read_again(folder: Path) -> None:
    first = load_tokenizer(str(folder))
    change(folder, "tokenizer_config.json", bos_token=None)
    second = load_tokenizer(str(folder))
    assert second is not first
    assert special_tokens(first).prefix != special_tokens(second).prefix == ()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError):
        load_tokenizer(str(folder))


def test_a_tokenizer_needs_no_weights_that_are_whole(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    assert load_tokenizer(str(folder))("a")["input_ids"]


def test_the_bridge_leaves_a_shared_tokenizer_as_it_was(bert_folder: Path) -> None:
    from masked_sae.activations.lm import load_lm
    from support.making import HOOK

    tokenizer = load_tokenizer(str(bert_folder))

    def state() -> tuple[object, ...]:
        rules = tokenizer.backend_tokenizer.to_str()
        return rules, tokenizer.special_tokens_map, tokenizer.padding_side, len(tokenizer)

    before = state()
    assert load_lm(str(bert_folder), HOOK).tokenizer is tokenizer
    assert state() == before


@pytest.mark.parametrize(
    "content", ["{}", "[]", "", '{"added_tok', "[" * 200_000, '{"added_tokens": [], "model": {"type": "BPE"}}']
)
def test_a_damaged_tokenizer_is_refused_in_one_line(
    content: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="tokenizer") as info:
        load_tokenizer(str(folder))
    assert str(info.value).startswith(f"lm.name={folder}: expected ")
    assert "\n" not in str(info.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [bytes(range(256)), b"\0" * 100])
def test_a_binary_tokenizer_is_refused_in_one_line(content: bytes, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match="tokenizer that can be read"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"bos_token": 5},
        {"tokenizer_class": 5},
        {"model_max_length": "x"},
    ],
)
def test_nonsense_in_a_tokenizers_settings_is_refused_in_one_line(changes: dict[str, Any], folder: Path) -> None:
    change(folder, "tokenizer_config.json", **changes)
    with pytest.raises(InputError, match="tokenizer that can be read") as info:
        load_tokenizer(str(folder))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", ["[]", '{"a', "", "null"])
def test_a_damaged_configuration_is_refused_with_the_tokenizer(content: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        load_tokenizer(str(folder))


def test_a_tokenizers_digest_is_of_its_rules_and_its_special_tokens(folder: Path) -> None:
    seen = {tokenizer_digest(load_tokenizer(str(folder)))}
    change(folder, "tokenizer_config.json", bos_token=None)
    seen.add(tokenizer_digest(load_tokenizer(str(folder))))
    change(folder, normalizer={"type": "Lowercase"})
    seen.add(tokenizer_digest(load_tokenizer(str(folder))))
    assert len(seen) == 3


def test_a_tokenizers_digest_is_not_of_how_it_was_called(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    before = tokenizer_digest(tokenizer)
    called = copy.deepcopy(tokenizer)
    called("some text", truncation=True, max_length=3)
    assert tokenizer_digest(called) == before
    os.utime(folder / "tokenizer.json", (1, 1))
    assert tokenizer_digest(load_tokenizer(str(folder))) == before
