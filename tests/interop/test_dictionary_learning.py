"""What dictionary_learning trained and saved computes here as its own code does; nothing that a file names is run."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from masked_sae.errors import InputError
from masked_sae.interop.dictionary_learning import READABLE
from masked_sae.interop.loading import load_sae, read_metadata, read_sizes

PLACE = Path(__file__).parent / "dictionary_learning"  # made by benchmarks/dictionary_learning.py
SAVED = sorted(path.name for path in PLACE.iterdir() if path.is_dir())
Weights = dict[str, Tensor]


@pytest.mark.parametrize("name", SAVED)
def test_it_encodes_and_decodes_as_its_own_code(name: str) -> None:
    theirs = load_file(PLACE / "encodings.safetensors")
    sae, metadata = load_sae(PLACE / name)
    torch.testing.assert_close(sae.encode(theirs["x"]), theirs[f"{name}/f"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(theirs["x"]), theirs[f"{name}/x_hat"], rtol=1e-5, atol=1e-5)
    assert {key: metadata[key] for key in ("model_name", "hook_name", "context_size")} == {
        "model_name": "somebody/an-lm", "hook_name": "blocks.1.hook_resid_post", "context_size": 16
    }  # fmt: skip
    sizes = read_sizes(PLACE / name)
    assert (sizes["d_in"], sizes["d_sae"]) == (sae.d_in, sae.d_sae) and sizes.get("k", 4) == 4


def test_each_of_its_classes_is_among_them() -> None:
    assert {read_sizes(PLACE / name)["architecture"] for name in SAVED} == set(READABLE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(PLACE / "batch_topk", tmp_path / "sae")


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    how(config)
    (folder / "config.json").write_text(json.dumps(config))


def refuse(folder: Path, said: str) -> str:
    with pytest.raises(InputError, match=said) as info:
        load_sae(folder)
    assert info.value.key == "sae" and "\n" not in str(info.value) and len(str(info.value)) < 500
    return str(info.value)


class Runs:
    """What is pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("how", ["whole", "beside the tensors", "no archive"])
def test_a_pickle_that_would_run_something_is_refused_and_does_not(how: str, protocol: int, folder: Path) -> None:
    made = folder / "made"
    runs = Runs(Path.touch, made)
    if how == "no archive":
        (folder / "ae.pt").write_bytes(pickle.dumps(runs, protocol))
    else:
        content = runs if how == "whole" else {"W_enc": torch.zeros(3), "b_dec": runs}
        torch.save(content, folder / "ae.pt", pickle_protocol=protocol)
    refuse(folder, "as torch.save writes it" if how == "no archive" else "of tensors alone: it names")
    with pytest.raises(InputError):
        read_metadata(folder)
    assert not made.exists()
    torch.load(folder / "ae.pt", weights_only=False) if how != "no archive" else pickle.loads(
        (folder / "ae.pt").read_bytes()
    )
    assert made.exists()  # it would have


@pytest.mark.parametrize("runs", [Runs(bytearray, 1 << 40), Runs(eval, "1"), Runs(torch.zeros, 1 << 40)])
def test_a_pickle_that_would_take_the_memory_is_refused(runs: Runs, folder: Path) -> None:
    torch.save({"W_enc": runs}, folder / "ae.pt")
    refuse(folder, "of tensors alone: it names")


def test_sizes_that_lie_are_told_before_they_are_believed(folder: Path) -> None:
    weights: Weights = torch.load(folder / "ae.pt", weights_only=True)
    huge = {**weights, "encoder.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}
    torch.save(huge, folder / "ae.pt")
    refuse(folder, "as many numbers of 'encoder.weight'")
    change(folder, lambda config: config["trainer"].update(dict_size=1 << 40))
    torch.save(weights, folder / "ae.pt")
    refuse(folder, r"encoder\.weight of \[1099511627776, 32\] in ae\.pt; it has \[24, 32\]")


def test_an_archive_that_grows_when_it_is_read_is_refused(folder: Path) -> None:
    with zipfile.ZipFile(folder / "ae.pt") as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(folder / "ae.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content if name.endswith("data.pkl") else b"\0" * (1 << 20))
    assert (folder / "ae.pt").stat().st_size < 1 << 20
    refuse(folder, "its entries claim more than is there")


@pytest.mark.parametrize("before", [True, False])
def test_what_torch_would_read_in_place_of_the_archive_that_was_looked_at_is_refused(
    before: bool, folder: Path
) -> None:
    """A file of before archives in front of one: torch reads that, zipfile the archive. And two archives in a file."""
    whole, made = (folder / "ae.pt").read_bytes(), folder / "made"
    torch.save(Runs(Path.touch, made), folder / "other.pt", _use_new_zipfile_serialization=not before)
    (folder / "ae.pt").write_bytes((folder / "other.pt").read_bytes() + whole)
    refuse(folder, "an archive and nothing else")
    (folder / "ae.pt").write_bytes(whole + (folder / "other.pt").read_bytes())
    refuse(folder, "an archive and nothing else")
    assert not made.exists()


def test_a_storage_shorter_than_its_index_says_is_told(folder: Path) -> None:
    with zipfile.ZipFile(folder / "ae.pt") as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(folder / "ae.pt", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content[:8] if "/data/" in name else content)
    refuse(folder, r"ae\.pt")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda w: w | {"b_dec": w["b_dec"] * float("nan")}, "finite numbers as b_dec: 32 of 32"),
        (lambda w: w | {"more": w["b_dec"]}, "nothing but .* in ae.pt; it has 'more', too"),
        (lambda w: w | {"b_dec": w["b_dec"].int()}, "numbers with a fraction as b_dec"),
        (lambda w: w | {"b_dec": w["b_dec"][:3]}, r"b_dec of \[32\] in ae.pt; it has \[3\]"),
        (lambda w: {name: w[name] for name in w if name != "threshold"}, r"threshold of \[\] in ae.pt; it has none"),
        (lambda w: list(w.values()), "tensors by name in ae.pt; it holds a list"),
        (lambda w: w | {"b_dec": 5}, "nothing but tensors by name"),
        (lambda w: w | {"b_dec": w["b_dec"].to_sparse()}, "of tensors alone: it names"),
    ],
)
def test_tensors_of_another_kind_are_told(how: Callable[[Weights], Any], said: str, folder: Path) -> None:
    torch.save(how(torch.load(folder / "ae.pt", weights_only=True)), folder / "ae.pt")
    refuse(folder, said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dict_class": "CrossCoder"}, "a dict_class of AutoEncoder, .*; this is 'CrossCoder', which reads several"),
        ({"dict_class": ["x"]}, "a dict_class of"),
        ({"dict_class": "os.system"}, "this is 'os.system'"),
        ({"activation_dim": "32"}, "a whole number above 0 as activation_dim"),
        ({"activation_dim": 16}, r"encoder\.weight of \[24, 16\]"),
        ({"dict_size": 10**400}, r"encoder\.weight of '?\[1000"),
        ({"k": -1}, "a whole number above 0 as k"),
        ({"lm_name": 5}, "a text as lm_name"),
        ({"submodule_name": ["x"]}, "a text as submodule_name"),
    ],
)
def test_fields_of_another_kind_are_told(changes: dict[str, Any], said: str, folder: Path) -> None:
    change(folder, lambda config: config["trainer"].update(changes))
    refuse(folder, said)


@pytest.mark.parametrize("k", [3, 25])
def test_a_k_that_two_files_disagree_on_is_told(k: int, tmp_path: Path) -> None:
    folder = shutil.copytree(PLACE / "topk", tmp_path / "sae")
    change(folder, lambda config: config["trainer"].update(k=k))
    refuse(folder, "k=4 in config.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"trainer": []}', "[" * 100_000])
def test_a_config_that_is_none_is_told(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    refuse(folder, "config.json")


def test_a_hook_point_is_named_only_where_there_is_no_doubt(folder: Path) -> None:
    for trainer, buffer, hook_name in [
        ({"submodule_name": None, "layer": 0}, {}, "blocks.0.hook_resid_post"),
        ({"submodule_name": "resid_post_layer_12", "layer": None}, {}, "blocks.12.hook_resid_post"),
        ({"submodule_name": "attn_out_layer_3", "layer": 3}, {}, None),
        ({"submodule_name": None, "layer": "three"}, {}, None),
        ({"submodule_name": "resid_post_layer_3"}, {"io": "in"}, None),
    ]:
        shutil.copy(PLACE / "batch_topk" / "config.json", folder / "config.json")
        change(
            folder,
            lambda config, one=trainer, two=buffer: (config["trainer"].update(one), config["buffer"].update(two)),
        )
        assert read_metadata(folder).get("hook_name") == hook_name
