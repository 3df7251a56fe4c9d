"""One name for an SAE of anybody's: a folder, a name on the hub, a release of SAELens."""

import shutil
from collections.abc import Generator
from pathlib import Path

import huggingface_hub
import pytest
import torch

from masked_sae.errors import InputError
from masked_sae.interop import hub as names
from masked_sae.interop.hub import HubName, parse
from masked_sae.interop.loading import find_sae, load_sae, read_sizes
from masked_sae.interop.saelens import export_sae
from masked_sae.saes import for_inference
from support.architectures import trained
from support.hub import NAME, Hub, commit, python

SAVED = Path(__file__).parent / "dictionary_learning"
SAE = for_inference(trained("topk"), 1.0)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What somebody published: an SAE at its root, two in folders."""
    root = tmp_path / "repository"
    export_sae(root, SAE, {"model_name": "tiny"})
    export_sae(root / "of_ours" / "k16", SAE, {"model_name": "tiny"})
    shutil.copytree(SAVED / "jumprelu", root / "theirs" / "trainer_0")
    (root / "theirs" / "trainer_0" / "checkpoints").mkdir()
    (root / "theirs" / "trainer_0" / "checkpoints" / "ae_5.pt").write_bytes(b"large")
    return root


@pytest.fixture
def hub(repository: Path) -> Generator[Hub]:
    found = Hub({commit(1): repository}, {"main": commit(1), "v1": commit(1)})
    yield found
    found.close()


LOAD = """
from masked_sae.interop.loading import find_sae, load_sae
told = []
for source in {sources!r}:
    found = find_sae(source)
    sae, metadata = load_sae(source)
    told.append(f"{{found.name}} {{found.origin}} {{sae.d_in}} {{sae.d_sae}}")
print("; ".join(told))
"""
REFUSED = """
from masked_sae.interop.loading import load_sae
told = []
for source in {sources!r}:
    try:
        load_sae(source)
    except Exception as error:
        told.append(f"{{type(error).__name__}} {{error}}")
print("; ".join(told))
"""
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def test_a_name_on_the_hub_is_downloaded_and_found_again_without_it(hub: Hub, tmp_path: Path) -> None:
    at, home = commit(1), tmp_path / "home"
    sources = (NAME, f"{NAME}/of_ours/k16@v1", f"{NAME}/theirs/trainer_0")
    origins = [f"{NAME}@{at}", f"{NAME}/of_ours/k16@{at}", f"{NAME}/theirs/trainer_0@{at}"]
    told = python(LOAD.format(sources=sources), home, HF_ENDPOINT=hub.url, **QUIET)
    assert told == f"an-lm {origins[0]} 16 64; k16 {origins[1]} 16 64; trainer_0 {origins[2]} 32 24"
    assert not any("checkpoints" in asked for asked in hub.asked if "/resolve/" in asked)
    hub.close()
    assert python(LOAD.format(sources=origins), home, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1", **QUIET) == told


def test_what_the_hub_has_not_is_told_in_one_line(hub: Hub, tmp_path: Path) -> None:
    refused = {
        "somebody/nothing": "or a name that the hub has: it has no somebody/nothing",
        f"{NAME}@v9": f"a branch, tag or commit of {NAME} after the @",
        f"{NAME}/theirs": "holds neither cfg.json with sae_weights.safetensors nor config.json with ae.pt",
    }
    script = REFUSED.format(sources=tuple(refused))
    lines = python(script, tmp_path / "home", HF_ENDPOINT=hub.url, **QUIET).split("; ")
    for line, (source, said) in zip(lines, refused.items(), strict=True):
        assert line.startswith(f"InputError sae={source}") and said in line


def test_without_a_hub_what_is_not_in_the_cache_is_told(tmp_path: Path) -> None:
    told = python(REFUSED.format(sources=("somebody/an-sae/k16",)), tmp_path / "home", HF_HUB_OFFLINE="1")
    assert told == (
        "InputError sae=somebody/an-sae/k16: expected a folder, or an SAE that was downloaded before: "
        "HF_HUB_OFFLINE is set, and the hub's cache has none"
    )


@pytest.mark.parametrize(
    "source",
    [
        "", "x", "../../nowhere", "owner/..", "owner/../repo", "owner/repo/../../x", "owner/repo/.git", "owner/repo//x",
        "owner/repo/*", "owner/repo/[a]", "owner/repo@", "owner/repo@../x", "owner/repo/x\n", "/owner/repo",
        "~nobody/x", "https://a.b/c", "owner/re po", "owner/repo\0", "a" * 100_000,
    ],
)  # fmt: skip
def test_a_name_that_would_lead_elsewhere_is_none(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InputError) as info:
        find_sae(source)
    assert info.value.key == "sae" and "\n" not in str(info.value) and len(str(info.value)) < 600


def test_a_name_has_a_repository_a_folder_and_a_revision() -> None:
    assert parse("owner/repo") == HubName("owner/repo")
    assert parse("o/r/a_2pow14/trainer_0@0123abc") == HubName("o/r", "a_2pow14/trainer_0", "0123abc")
    assert parse("o/r/blocks.8.hook_resid_post@refs/pr/1") == HubName("o/r", "blocks.8.hook_resid_post", "refs/pr/1")
    for name in ("owner/repo", "o/r/a/b", "o/r@v1", "o/r/a@v1"):
        assert str(parse(name)) == name


@pytest.mark.usefixtures("sae_lens")
def test_releases_are_those_of_saelens(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parse("gpt2-small-res-jb:blocks.8.hook_resid_pre")
    assert found == HubName("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre")
    for source, said in [
        ("no-such-release:x", "a release that SAELens knows"),
        ("gpt2-small-res-jb:blocks.99", "one of the 13 SAEs of gpt2-small-res-jb, such as blocks.0.hook_resid_pre"),
        ("gemma-scope-2b-pt-res:layer_0/width_16k/average_l0_105", "these are of gemma_2. SAELens loads and converts"),
        ("gpt2-small-mlp-tm:blocks.0.hook_mlp_out", "SAELens' table adds norm_scaling_factor"),
        ("mistral-7b-res-wg:blocks.8.hook_resid_pre", "SAELens' table adds normalize_activations"),
    ]:
        with pytest.raises(InputError, match=said):
            parse(source)
    names._releases.cache_clear()
    monkeypatch.setattr(names, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="install sae-lens, whose table names releases"):
        parse("gpt2-small-res-jb:blocks.8.hook_resid_pre")
    names._releases.cache_clear()


def test_a_runs_folder_its_sae_and_one_of_anybodys_are_found(tmp_path: Path) -> None:
    export_sae(tmp_path / "run" / "sae", SAE, {})
    for place in ("run", "run/sae"):
        found = find_sae(tmp_path / place)
        assert (found.folder, found.name) == (tmp_path / "run" / "sae", "run")
        assert torch.equal(load_sae(str(tmp_path / place))[0].W_dec_FD, SAE.W_dec_FD)
    theirs = find_sae(str(SAVED / "gated"))
    assert theirs.name == "gated" and theirs.origin == str(SAVED / "gated")
    assert read_sizes(theirs.folder)["architecture"] == "GatedAutoEncoder"
    with pytest.raises(InputError, match=r"it holds no cfg\.json and neither config\.json with ae\.pt"):
        load_sae(tmp_path)
