"""What we write, SAELens reads: the same latents and reconstructions, on the LM's own activations."""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from masked_sae.errors import DamagedFileError, InputError
from masked_sae.interop.saelens import check_sae, export_sae, load_sae, read_metadata, read_sizes
from masked_sae.interop.saelens_config import READABLE
from masked_sae.saes import for_inference
from support.architectures import ARCHITECTURES, trained

SCALE = 0.37


@pytest.mark.parametrize("kind", ARCHITECTURES)
@torch.no_grad()
def test_saelens_loads_it_and_encodes_the_same(kind: str, sae_lens: Any, tmp_path: Path) -> None:
    with torch.enable_grad():
        sae = trained(kind)
    export_sae(
        tmp_path / "sae", for_inference(sae, SCALE), {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"}
    )
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "sae"))
    x_BD = torch.randn(40, 16, generator=torch.Generator().manual_seed(1)) / SCALE
    f_BF = sae.encode(x_BD * SCALE)
    assert (f_BF > 0).any()
    torch.testing.assert_close(theirs.encode(x_BD), f_BF / SCALE, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs(x_BD), sae.decode(f_BF) / SCALE, rtol=1e-4, atol=1e-5)
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_was_saved_is_read_back_to_the_bit(kind: str, tmp_path: Path) -> None:
    sae = for_inference(trained(kind), SCALE)
    export_sae(tmp_path / "sae", sae, {"model_name": "tiny"})
    read, metadata = load_sae(tmp_path / "sae")
    x_BD = torch.randn(40, 16, generator=torch.Generator().manual_seed(1)) / SCALE
    assert torch.equal(read.encode(x_BD), sae.encode(x_BD)) and torch.equal(read(x_BD), sae(x_BD))
    assert metadata["model_name"] == "tiny"
    assert read_metadata(tmp_path / "sae") == metadata


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "topk": [{"k": 5, "rescale_acts_by_decoder_norm": rescales} for rescales in (True, False)],
    "abstopk": [{"k": 5, "rescale_acts_by_decoder_norm": rescales} for rescales in (True, False)],
    "matching_pursuit": [
        {"residual_threshold": 0.5},
        {"residual_threshold": 0.0, "max_iterations": 7, "stop_on_duplicate_support": False},
    ],
}


@pytest.mark.parametrize(("architecture", "options"), [(one, o) for one in READABLE for o in OPTIONS.get(one, [{}])])
@pytest.mark.parametrize("subtracts", [True, False])
@torch.no_grad()
def test_saes_that_saelens_saved_encode_and_decode_as_there(
    architecture: str, options: dict[str, Any], subtracts: bool, sae_lens: Any, tmp_path: Path
) -> None:
    config = sae_lens.registry.get_sae_class(architecture)[1](
        d_in=16, d_sae=64, device="cpu", apply_b_dec_to_input=subtracts, **options
    )
    theirs = sae_lens.SAE.from_dict(config.to_dict())
    generator = torch.Generator().manual_seed(2)
    for name, parameter in theirs.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.1 if name == "r_mag" else 0.5))
    if architecture == "matching_pursuit":
        theirs.W_dec.copy_(torch.nn.functional.normalize(theirs.W_dec, dim=1))
    theirs.save_model(tmp_path)
    ours, _ = load_sae(tmp_path)
    x_BD = torch.randn(40, 16, generator=generator)
    f_BF = ours.encode(x_BD)
    assert (f_BF >= 0).all() and f_BF.shape[1] == read_sizes(tmp_path)["d_sae"]
    if architecture == "abstopk":  # a latent of two signs there is two here
        f_BF = f_BF[:, :64] - f_BF[:, 64:]
    # A JumpReLU of a negative threshold lets no negative latent through: its base is a ReLU.
    torch.testing.assert_close(f_BF, theirs.encode(x_BD), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(x_BD), theirs(x_BD), rtol=1e-4, atol=1e-4)


def test_all_that_saelens_registers_is_read_or_refused_by_name(sae_lens: Any, tmp_path: Path) -> None:
    registry = sae_lens.registry
    folder = foreign(tmp_path / "sae")
    for name in {*registry.SAE_CLASS_REGISTRY, *registry.SAE_TRAINING_CLASS_REGISTRY} - set(READABLE):
        change(folder, lambda config, name=name: config.update(architecture=name))
        with pytest.raises(InputError, match=f"this is '{name}', [a-z]"):
            check_sae(folder)


OLDER = {"hook_point": "blocks.1.hook_resid_post", "model_name": "tiny", "context_size": 16, "d_in": 16, "d_sae": 64}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"activation_fn_str": "relu"}, ("b_enc",)),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 5}, "sae_lens_version": "4.0.3"}, ("b_enc",)),
        ({"architecture": "gated", "apply_b_dec_to_input": False}, ("b_gate", "r_mag", "b_mag")),
        ({"architecture": "jumprelu", "normalize_activations": False}, ("b_enc", "threshold")),
        ({"scaling_factor": "ones"}, ("b_enc",)),
    ],
)
@torch.no_grad()
def test_folders_of_saelens_before_6_are_read_as_it_reads_them(
    config: dict[str, Any], names: tuple[str, ...], sae_lens: Any, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = {"W_enc": (16, 64), "W_dec": (64, 16), "b_dec": (16,)} | dict.fromkeys(names, (64,))
    weights = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    if config.pop("scaling_factor", None):
        weights["scaling_factor"] = torch.ones(64)
    save_file(weights, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(OLDER | {"dtype": "float32", "device": "cpu"} | config))
    ours, metadata = load_sae(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    x_BD = torch.randn(40, 16, generator=generator)
    torch.testing.assert_close(ours.encode(x_BD), theirs.encode(x_BD), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(x_BD), theirs(x_BD), rtol=1e-4, atol=1e-4)
    assert (metadata["hook_name"], metadata["context_size"]) == (theirs.cfg.metadata.hook_name, 16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation_fn": "tanh-relu"}, "relu as activation_fn"),
        ({"finetuning_scaling_factor": True}, "without finetuning_scaling_factor"),
        ({"normalize_activations": True}, "expected_average_only_in': the factor .* is not in the folder"),
        ({"hook_point": "blocks.1.attn.hook_z"}, "reshape_activations=none"),
    ],
)
def test_what_folders_before_6_did_besides_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "sae")
    (folder / "cfg.json").write_text(json.dumps(OLDER | changes))
    with pytest.raises(InputError, match=said):
        check_sae(folder)


@torch.no_grad()
def test_a_threshold_that_saelens_left_at_the_scale_of_training_is_told(
    sae_lens: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its BatchTopK SAE as it is written after training on scaled activations: others are active than should be."""
    config = sae_lens.BatchTopKTrainingSAEConfig(
        d_in=16, d_sae=64, k=4, decoder_init_norm=0.5, normalize_activations="expected_average_only_in"
    )
    torch.manual_seed(0)
    sae, scale = sae_lens.BatchTopKTrainingSAE(config), 0.1
    sae.topk_threshold.fill_(0.2)
    x_BD = torch.randn(40, 16, generator=torch.Generator().manual_seed(1)) / scale
    sae.save_inference_model(tmp_path / "unscaled")
    sae.fold_activation_norm_scaling_factor(scale)
    sae.save_inference_model(tmp_path / "folded")
    change(tmp_path / "unscaled", lambda config: config.update(normalize_activations="none"))
    unscaled, folded = (load_sae(tmp_path / name)[0] for name in ("unscaled", "folded"))
    assert "mended in 6.54.12" in capsys.readouterr().err
    meant = (unscaled.encode(x_BD * scale) > 0).sum()
    is_mended = sae_lens.__version__ >= "6.54.12"
    assert ((folded.encode(x_BD) > 0).sum() == meant) == is_mended
    for how in (
        lambda c: c["metadata"].update(sae_lens_training_version="6.54.12"),
        lambda c: c["metadata"].update(sae_lens_training_version="6.54.0", training_architecture="jumprelu"),
        lambda c: c["metadata"].update(training_architecture="batchtopk"),
    ):
        (tmp_path / "folded" / "runner_cfg.json").write_text('{"sae": {"normalize_activations": "none"}}')
        change(tmp_path / "folded", how)
        load_sae(tmp_path / "folded")
        assert capsys.readouterr().err == ""
    (tmp_path / "folded" / "runner_cfg.json").write_text(
        '{"sae": {"normalize_activations": "expected_average_only_in"}}'
    )
    load_sae(tmp_path / "folded")
    assert "on scaled activations" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"residual_threshold": -1},
        {"residual_threshold": math.inf},
        {"residual_threshold": "small"},
        {"max_iterations": 0},
        {"max_iterations": 10**9},
        {"max_iterations": 2.5},
        {"stop_on_duplicate_support": "yes"},
    ],
)
def test_a_pursuit_without_an_end_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    weights = {"W_dec": torch.eye(16), "b_dec": torch.zeros(16)}
    save_file(weights, tmp_path / "sae_weights.safetensors")
    config = {"architecture": "matching_pursuit", "metadata": {"sae_lens_version": "6.54.0"}}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    check_sae(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=next(iter(changes))):
        check_sae(tmp_path)


def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sae=.*holds no cfg\.json"):
        load_sae(tmp_path)
    export_sae(tmp_path / "sae", for_inference(trained("topk"), SCALE), {})
    config = tmp_path / "sae" / "cfg.json"
    text = config.read_text()
    config.write_text(text.replace('"topk"', '"transcoder"'))
    for read in (load_sae, read_metadata):
        with pytest.raises(InputError, match="an architecture of jumprelu, topk"):
            read(tmp_path / "sae")
    for damaged in ("{", "[]", "5", '{"architecture": "topk", "k": 4, "metadata": ["x"]}', "\xff"):
        config.write_text(damaged, encoding="latin-1")
        for read in (load_sae, read_metadata):
            with pytest.raises(InputError, match=r"a readable SAE: its cfg\.json is none"):
                read(tmp_path / "sae")
    for k in ("null", "[4]", '"four"', "0", "4.5"):
        config.write_text(re.sub(r'"k": \d+', f'"k": {k}', text))
        with pytest.raises(InputError, match="a whole number above 0 as k"):
            read_metadata(tmp_path / "sae")
    config.write_text(text.replace('"normalize_activations": "none"', '"normalize_activations": "layer_norm"'))
    with pytest.raises(InputError, match="normalize_activations=none"):
        load_sae(tmp_path / "sae")


@pytest.mark.parametrize("read", [load_sae, read_metadata])
def test_weights_that_are_none_or_were_cut_are_told_before_they_are_read(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    export_sae(tmp_path / "sae", for_inference(trained("topk"), SCALE), {})
    weights = tmp_path / "sae" / "sae_weights.safetensors"
    whole = weights.read_bytes()
    for content in (b"", b"not weights", b"x" * 1000, whole[:-1], whole[: len(whole) // 2], whole[:100]):
        weights.write_bytes(content)
        with pytest.raises(InputError, match=r"a readable SAE: its sae_weights\.safetensors is none"):
            read(tmp_path / "sae")


@pytest.mark.parametrize("read", [load_sae, read_metadata])
def test_weights_of_something_else_are_told_before_they_are_read(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    export_sae(tmp_path / "sae", for_inference(trained("batch_topk"), SCALE), {})
    path = tmp_path / "sae" / "sae_weights.safetensors"
    weights = load_file(path)
    d_in, d_sae = weights["W_enc"].shape
    for name, changed, said in [
        ("threshold", None, rf"threshold of \[{d_sae}\] in sae_weights.safetensors; it has none"),
        ("W_enc", None, r"W_enc of \[d_in, d_sae\].*; it has none"),
        ("W_enc", weights["W_enc"][0], rf"W_enc of \[d_in, d_sae\].*; it has \[{d_sae}\]"),
        ("W_dec", weights["W_dec"].T, rf"W_dec of \[{d_sae}, {d_in}\].*; it has \[{d_in}, {d_sae}\]"),
        ("b_enc", weights["b_enc"][1:], rf"b_enc of \[{d_sae}\].*; it has \[{d_sae - 1}\]"),
    ]:
        others = {key: tensor for key, tensor in weights.items() if key != name}
        save_file(others if changed is None else others | {name: changed.contiguous()}, path)
        with pytest.raises(InputError, match=said):
            read(tmp_path / "sae")


def exported(folder: Path, kind: str = "topk", metadata: dict[str, Any] | None = None) -> Path:
    export_sae(folder, for_inference(trained(kind), SCALE), {} if metadata is None else metadata)
    return folder


def foreign(folder: Path, kind: str = "topk", metadata: dict[str, Any] | None = None) -> Path:
    """As SAELens would have saved it: without our digests."""
    exported(folder, kind, metadata)
    change(folder, lambda config: config["metadata"].pop("masked_sae_weights_sha256"))
    change(folder, lambda config: config["metadata"].pop("masked_sae_cfg_digest"))
    return folder


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    how(config)
    (folder / "cfg.json").write_text(json.dumps(config))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("read", [load_sae, read_metadata, check_sae])
@pytest.mark.parametrize("remembered", [True, False])
def test_a_flipped_byte_in_exported_weights_is_told(
    read: Callable[..., object], remembered: bool, tmp_path: Path
) -> None:
    """It gave other metrics without a word."""
    folder, memory = exported(tmp_path / "sae"), tmp_path / "digests" if remembered else None
    read(folder, memory)
    flip(folder / "sae_weights.safetensors", -3)
    with pytest.raises(
        DamagedFileError, match=r"sae_weights\.safetensors is damaged \(other bytes than were exported\)"
    ):
        read(folder, memory)


@pytest.mark.parametrize(
    "how",
    [
        lambda config: config.update(k=config["k"] - 1),
        lambda config: config.update(apply_b_dec_to_input=False),
        lambda config: config.update(rescale_acts_by_decoder_norm=True),
        lambda config: config.update(architecture="standard"),
        lambda config: config["metadata"].update(hook_name="blocks.2.hook_resid_post"),
        lambda config: config["metadata"].pop("masked_sae_weights_sha256"),
    ],
)
def test_a_changed_field_of_an_export_is_told(how: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    folder = exported(tmp_path / "sae", metadata={"hook_name": "blocks.1.hook_resid_post", "model_name": "/here"})
    change(folder, lambda config: config["metadata"].update(model_name="/moved"))
    check_sae(folder)
    change(folder, how)
    for read in (load_sae, read_metadata, check_sae):
        with pytest.raises(DamagedFileError, match=r"cfg\.json is damaged"):
            read(folder)


def test_checking_what_is_remembered_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, memory = exported(tmp_path / "sae"), tmp_path / "digests"
    check_sae(folder, memory)
    monkeypatch.setattr("masked_sae.digests._read", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr("masked_sae.interop.saelens.load_file", lambda *_: pytest.fail("read again"))
    check_sae(folder, memory)


def test_the_same_sae_is_exported_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("sae_weights.safetensors", "cfg.json"):
        first, second = (exported(tmp_path / place) / name for place in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec", "threshold"])
def test_weights_that_are_not_finite_are_refused(name: str, value: float, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "sae", "jumprelu")
    weights = load_file(folder / "sae_weights.safetensors")
    weights[name].view(-1)[3] = value
    save_file(weights, folder / "sae_weights.safetensors")
    for read in (load_sae, check_sae):
        with pytest.raises(InputError, match=f"sae=.*: expected finite numbers as {name}: 1 of"):
            read(folder)


def test_weights_that_are_not_finite_once_folded_are_refused(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "sae")
    weights = load_file(folder / "sae_weights.safetensors")
    weights["W_dec"][5] = 0
    save_file(weights, folder / "sae_weights.safetensors")
    check_sae(folder)
    change(folder, lambda config: config.update(rescale_acts_by_decoder_norm=True))
    with pytest.raises(InputError, match="finite numbers as W_dec as it is computed with"):
        load_sae(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_any_floating_point_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "sae")
    path = folder / "sae_weights.safetensors"
    weights = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(weights, path)
    sae, _ = load_sae(folder)
    assert sae.W_enc_DF.dtype == torch.float32 and torch.equal(sae.W_enc_DF, weights["W_enc"].float())


def transposed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {name: weights[name].T.contiguous() for name in ("W_enc", "W_dec")}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda w: w | {"W_enc": w["W_enc"].to(torch.int8)}, "W_enc of F64, F32, F16, BF16 in .*; it is I8"),
        (lambda w: w | {"b_enc": w["b_enc"].bool()}, "b_enc of F64, F32, F16, BF16 in .*; it is BOOL"),
        (lambda w: w | {"W_dec": w["W_dec"].double() * 1e300}, "finite numbers as W_dec"),
        (lambda w: w | {"scaling_factor": w["b_enc"].clone()}, "nothing but W_enc.*; it has 'scaling_factor', too"),
        (lambda w: w | {"x" * 500: w["b_enc"].clone()}, "nothing but W_enc.*; it has 'xxxx.*…, too"),
        (transposed, r"d_in=64 in cfg\.json, for W_enc of \[64, 16\]; this is 16"),
        (lambda w: w | {"W_enc": torch.zeros(16, 0), "W_dec": torch.zeros(0, 16)}, r"W_enc of \[d_in, d_sae\]"),
        (lambda w: w | {"W_enc": torch.zeros(())}, r"W_enc of \[d_in, d_sae\].*; it has \[\]"),
    ],
)
def test_weights_of_another_kind_are_told(
    how: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str, tmp_path: Path
) -> None:
    folder = foreign(tmp_path / "sae")
    path = folder / "sae_weights.safetensors"
    save_file(how(load_file(path)), path)
    with pytest.raises(InputError, match=said) as info:
        check_sae(folder)
    assert "\n" not in str(info.value) and len(str(info.value)) < 400


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": 65}, "k of at most the 64 latents; this is 65"),
        ({"k": True}, "a whole number above 0 as k; this is True"),
        ({"k": 10**400}, "k of at most the 64 latents; this is 1000"),
        ({"k": math.inf}, "a whole number above 0 as k; this is inf"),
        ({"k": math.nan}, "a whole number above 0 as k; this is nan"),
        ({"architecture": ["topk"]}, r"an architecture of .*; this is \['topk'\]"),
        ({"architecture": {"a\n[/b]": "\x1b"}}, "an architecture of .*; this is {"),
        ({"architecture": "x" * 100_000}, "an architecture of .*; this is 'x.*…"),
        ({"metadata": "text"}, "metadata is 'text'"),
        ({"metadata": [["a", "b"]]}, "metadata is"),
        ({"metadata": 0}, "metadata is 0"),
        ({"metadata": {"model_name": 5}}, "a text as model_name"),
        ({"metadata": {"hook_name": ["x"]}}, "a text as hook_name"),
        ({"d_in": 10**300}, r"d_in=16 in cfg\.json"),
        ({"d_sae": "many"}, r"d_sae=64 in cfg\.json"),
        ({"apply_b_dec_to_input": "no"}, "true or false as apply_b_dec_to_input"),
        ({"rescale_acts_by_decoder_norm": [1]}, "true or false as rescale_acts_by_decoder_norm"),
        ({"normalize_activations": {"a": 1}}, "normalize_activations=none"),
    ],
)
def test_fields_of_another_kind_are_told(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "sae")
    change(folder, lambda config: config.update(changes))
    for read in (load_sae, read_metadata, check_sae):
        with pytest.raises(InputError, match=said) as info:
            read(folder)
        assert "\n" not in str(info.value) and len(str(info.value)) < 400


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000 + "]" * 200_000,
        '{"architecture": ' + "[" * 200_000 + "]" * 200_000 + "}",
        '{"architecture": "topk", "k": ' + "9" * 10_000 + "}",
        "\ufeff{}",
        '"topk"',
    ],
)
def test_a_cfg_json_that_is_none_is_told(content: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "sae")
    (folder / "cfg.json").write_text(content)
    with pytest.raises(InputError, match=r"a readable SAE: its cfg\.json is none"):
        read_metadata(folder)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_links_are_followed_and_what_is_no_file_is_told(name: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "sae")
    (tmp_path / "link").symlink_to(folder)
    check_sae(tmp_path / "link")
    path = folder / name
    path.symlink_to(path.rename(tmp_path / name))
    check_sae(folder)
    for make in (
        lambda: path.symlink_to(tmp_path / "nowhere"),
        lambda: path.symlink_to(path),
        lambda: os.mkfifo(path),
        path.mkdir,
    ):
        path.unlink()
        make()
        with pytest.raises(InputError, match=f"it holds no {name}"):
            check_sae(folder)


def test_an_sae_in_use_does_not_change_with_its_file(tmp_path: Path) -> None:
    """Its weights were a map of the file: cut, it was the end of the process."""
    folder = exported(tmp_path / "sae")
    sae, _ = load_sae(folder)
    kept = sae.W_enc_DF.clone()
    with (folder / "sae_weights.safetensors").open("r+b") as file:
        file.write(b"\xff" * 10_000)
    assert torch.equal(sae.W_enc_DF, kept)
