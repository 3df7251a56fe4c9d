"""What we write, SAELens reads: the same latents and reconstructions, on the LM's own activations."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from masked_sae.errors import InputError
from masked_sae.interop.saelens import export_sae, load_sae, read_metadata
from masked_sae.saes import for_inference
from support.architectures import ARCHITECTURES, trained

SCALE = 0.37


@pytest.mark.parametrize("kind", ARCHITECTURES)
@torch.no_grad()
def test_saelens_loads_it_and_encodes_the_same(kind: str, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="the extra `peers` is not installed")
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


@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu", "topk"])
@pytest.mark.parametrize("subtracts", [True, False])
@torch.no_grad()
def test_saes_that_saelens_saved_encode_and_decode_as_there(architecture: str, subtracts: bool, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="the extra `peers` is not installed")
    options = {"k": 5, "rescale_acts_by_decoder_norm": True} if architecture == "topk" else {}
    config = sae_lens.registry.get_sae_class(architecture)[1](
        d_in=16, d_sae=64, device="cpu", apply_b_dec_to_input=subtracts, **options
    )
    theirs = sae_lens.SAE.from_dict(config.to_dict())
    generator = torch.Generator().manual_seed(2)
    for name, parameter in theirs.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.1 if name == "r_mag" else 0.5))
    theirs.save_model(tmp_path)
    ours, _ = load_sae(tmp_path)
    x_BD = torch.randn(40, 16, generator=generator)
    # A JumpReLU of a negative threshold lets no negative latent through: its base is a ReLU.
    torch.testing.assert_close(ours.encode(x_BD) > 0, theirs.encode(x_BD) > 0)
    torch.testing.assert_close(ours(x_BD), theirs(x_BD), rtol=1e-4, atol=1e-4)


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
