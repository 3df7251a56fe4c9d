import json
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from masked_sae import digests, lm_files
from masked_sae.errors import InputError
from masked_sae.lm_files import find_lm_folder, find_tokenizer_folder, lm_digest
from support.hub import NAME, Hub, commit, python, write_cache

DIGEST = f"from masked_sae.lm_files import lm_digest; print(lm_digest({NAME!r}))"
WHOLE = f"from masked_sae.lm_files import find_lm_folder; print(find_lm_folder({NAME!r}))"


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def split_in_two(folder: Path) -> None:
    """A sharded checkpoint of the same weights."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    half = len(names) // 2
    shards = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for file, keys in shards.items():
        save_file({key: weights[key] for key in keys}, folder / file, metadata={"format": "pt"})
    where = {key: file for file, keys in shards.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.fixture
def lm(neox_folder: Path, tmp_path: Path) -> Path:
    return copy(neox_folder, tmp_path / "lm")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """An empty cache of the hub's."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    lm_files._download.cache_clear()
    yield tmp_path / "cache"
    lm_files._download.cache_clear()


@pytest.fixture
def hub(neox_folder: Path, tmp_path: Path) -> Generator[Hub]:
    first = copy(neox_folder, tmp_path / "hub" / "first")
    (first / "README.md").write_text("a card")
    second = copy(first, tmp_path / "hub" / "second")
    (second / "README.md").write_text("an edited card")
    third = copy(first, tmp_path / "hub" / "third")
    change_weights(third, lambda w: w["embed_out.weight"].mul_(0.5))
    commits = {commit(1): first, commit(2): second, commit(3): third}
    server = Hub(commits, {"main": commit(1), "later": commit(2), "other": commit(3)})
    yield server
    server.close()


def test_lms_that_differ_in_the_middle_of_two_matrices_have_two_digests(lm: Path, tmp_path: Path) -> None:
    other = copy(lm, tmp_path / "other")

    def halve(weights: dict[str, torch.Tensor]) -> None:
        for name in ("gpt_neox.layers.1.mlp.dense_h_to_4h.weight", "gpt_neox.layers.2.attention.dense.weight"):
            weights[name][8:-8].mul_(0.5)

    change_weights(other, halve)
    assert lm_digest(str(lm)) != lm_digest(str(other))


def test_each_byte_of_each_shard_counts(lm: Path) -> None:
    split_in_two(lm)
    seen = {lm_digest(str(lm))}
    for name in ("a.safetensors", "b.safetensors"):
        content = bytearray((lm / name).read_bytes())
        content[len(content) // 3] ^= 1
        (lm / name).write_bytes(content)
        seen.add(lm_digest(str(lm)))
    assert len(seen) == 3


def test_what_does_not_change_the_model_does_not_change_the_digest(lm: Path) -> None:
    before = lm_digest(str(lm))
    (lm / "README.md").write_text("about it")
    (lm / "notes.safetensors").write_bytes(b"not read")
    (lm / "tokenizer.json").write_text("{}")  # counts on its own
    change_json(lm / "config.json", transformers_version="4.0.0", _name_or_path="elsewhere")
    config = json.loads((lm / "config.json").read_text())
    (lm / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    os.utime(lm / "model.safetensors", (1, 1))
    assert lm_digest(str(lm)) == before
    change_json(lm / "config.json", layer_norm_eps=1e-3)
    assert lm_digest(str(lm)) != before


def test_a_digest_is_remembered_until_the_file_changes(
    lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "digests"
    first = lm_digest(str(lm), memory=memory)
    with monkeypatch.context() as patch:
        patch.setattr(digests, "_read", lambda *_: pytest.fail("the file was read again"))
        assert lm_digest(str(lm), memory=memory) == first
    change_weights(lm, lambda w: w["embed_out.weight"].mul_(0.5))
    assert lm_digest(str(lm), memory=memory) != first


def test_a_hub_name_and_a_local_copy_have_one_digest(lm: Path, cache: Path, tmp_path: Path) -> None:
    write_cache(cache, commit(1), lm)
    assert lm_digest(NAME) == lm_digest(str(lm))
    split_in_two(lm)
    write_cache(cache, commit(2), lm)
    lm_files._download.cache_clear()
    assert lm_digest(NAME) == lm_digest(str(lm))


def test_a_blob_that_is_not_named_by_its_digest_is_read(lm: Path, cache: Path) -> None:
    snapshot = write_cache(cache, commit(1), lm)
    weights = snapshot / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content)  # where links are not supported
    assert lm_digest(NAME) == lm_digest(str(lm))


def test_a_revision_is_another_lm_where_its_weights_are(lm: Path, cache: Path) -> None:
    write_cache(cache, commit(1), lm)
    (lm / "README.md").write_text("edited")
    write_cache(cache, commit(2), lm, "edited")
    change_weights(lm, lambda w: w["embed_out.weight"].mul_(0.5))
    write_cache(cache, commit(3), lm, "step1000")
    assert lm_digest(NAME) == lm_digest(NAME, "main") == lm_digest(NAME, "edited") == lm_digest(NAME, commit(1))
    assert lm_digest(NAME, "step1000") == lm_digest(NAME, commit(3)) == lm_digest(str(lm)) != lm_digest(NAME)
    assert find_lm_folder(NAME, "step1000").name == commit(3)


def test_offline_without_the_weights_is_one_line(lm: Path, cache: Path) -> None:
    (lm / "model.safetensors").unlink()
    write_cache(cache, commit(1), lm)
    assert find_tokenizer_folder(NAME).name == commit(1)
    for ask in (lm_digest, find_lm_folder):
        with pytest.raises(InputError, match="hub that can be reached"):
            ask(NAME)


def test_a_revision_of_a_folder_is_refused(lm: Path) -> None:
    for ask in (lm_digest, find_lm_folder, find_tokenizer_folder):
        with pytest.raises(InputError, match=r"lm\.revision=main: expected null"):
            ask(str(lm), "main")


def test_naming_downloads_no_weights(hub: Hub, tmp_path: Path) -> None:
    online = {"HF_ENDPOINT": hub.url}
    local = lm_digest(str(hub.commits[commit(1)]))
    assert python(DIGEST, tmp_path / "home", **online) == local
    assert hub.weights_asked == []
    assert any(one.endswith("config.json") for one in hub.asked)
    folder = Path(python(WHOLE, tmp_path / "home", HF_HUB_DISABLE_PROGRESS_BARS="1", **online))
    assert (folder / "model.safetensors").is_file()
    assert len([one for one in hub.weights_asked if one.startswith("GET")]) == 1
    hub.branches["main"] = commit(2)  # the same weights under an edited card
    assert python(DIGEST, tmp_path / "home", **online) == local
    hub.branches["main"] = commit(3)
    assert python(DIGEST, tmp_path / "home", **online) == lm_digest(str(hub.commits[commit(3)])) != local
    assert len([one for one in hub.weights_asked if one.startswith("GET")]) == 1


def test_a_sharded_lm_is_named_without_its_weights_too(hub: Hub, tmp_path: Path) -> None:
    split_in_two(hub.commits[commit(1)])
    online = {"HF_ENDPOINT": hub.url}
    assert python(DIGEST, tmp_path / "home", **online) == lm_digest(str(hub.commits[commit(1)]))
    assert hub.weights_asked == []
    folder = Path(python(WHOLE, tmp_path / "home", HF_HUB_DISABLE_PROGRESS_BARS="1", **online))
    assert {path.name for path in folder.glob("*.safetensors")} == {"a.safetensors", "b.safetensors"}
    hub.close()
    assert python(DIGEST, tmp_path / "home", HF_HUB_OFFLINE="1") == lm_digest(str(hub.commits[commit(1)]))


def test_a_revision_that_the_hub_lacks_is_one_line(hub: Hub, tmp_path: Path) -> None:
    script = f"""
from masked_sae.errors import InputError
from masked_sae.lm_files import lm_digest
try:
    lm_digest({NAME!r}, "no-such-branch")
except InputError as error:
    print(error)
"""
    line = python(script, tmp_path / "home", HF_ENDPOINT=hub.url)
    assert line == f"lm.revision=no-such-branch: expected a branch, tag or commit of {NAME}"


def index_of(*files: object) -> str:
    return json.dumps({"metadata": {}, "weight_map": {f"weight{i}": file for i, file in enumerate(files)}})


@pytest.mark.parametrize(
    ("file", "content", "hint"),
    [
        ("config.json", "[]", "a list where an object"),
        ("config.json", '{"hidden_si', "config.json"),
        ("config.json", "", "empty"),
        ("config.json", "[" * 200_000, "config.json"),
        ("config.json", '{"transformers_weights": "../x.safetensors"}', "names other files"),
        ("adapter_config.json", "{}", "adapter"),
        ("model.safetensors.index.json", index_of("../x.safetensors"), "inside the folder"),
        ("model.safetensors.index.json", index_of("a/../../x.safetensors"), "inside the folder"),
        ("model.safetensors.index.json", index_of("/tmp/x.safetensors"), "inside the folder"),
        ("model.safetensors.index.json", index_of("x.safetensors"), "the file x.safetensors"),
        ("model.safetensors.index.json", index_of("pytorch_model.bin"), "pytorch_model.bin"),
        ("model.safetensors.index.json", index_of(5), "names 5"),
        ("model.safetensors.index.json", '{"weight_map": []}', "weight_map"),
        ("model.safetensors.index.json", "{", "index.json"),
    ],
)
def test_a_hostile_folder_is_refused_in_one_line(file: str, content: str, hint: str, lm: Path) -> None:
    (lm / file).write_text(content)
    for ask in (lm_digest, lambda name: (find_lm_folder(name), lm_files.read_lm_config(name, Path(name)))):
        with pytest.raises(InputError, match=hint) as info:
            ask(str(lm))
        assert str(info.value).startswith(f"lm.name={lm}: expected ")
        assert "\n" not in str(info.value)


def test_a_lora_alone_is_called_what_it_is(tmp_path: Path) -> None:
    """Its folder has no config.json."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    with pytest.raises(InputError, match="a checkpoint that an adapter is merged into"):
        find_tokenizer_folder(str(tmp_path))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_that_cannot_be_read_is_refused(file: str, lm: Path) -> None:
    (lm / file).unlink()
    (lm / file).mkdir()
    with pytest.raises(InputError, match=file):
        lm_digest(str(lm))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_weights_without_permission_are_refused(lm: Path) -> None:
    (lm / "model.safetensors").chmod(0)
    with pytest.raises(InputError, match="weights that can be read"):
        lm_digest(str(lm))


def test_pickles_are_refused(lm: Path) -> None:
    torch.save(load_file(lm / "model.safetensors"), lm / "pytorch_model.bin")
    (lm / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no weights \(model.safetensors\) but pytorch_model.bin"):
        find_lm_folder(str(lm))


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "~nobody-of-this-name/x"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"lm\.name="):
        lm_digest(name)
