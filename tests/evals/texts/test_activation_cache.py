"""Activations are read once, in order, and never with padding."""

import os
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import torch

from masked_sae.activations.lm import LM
from masked_sae.evals.texts.activation_cache import ActivationCache, TokenizedTexts
from masked_sae.runs.state import read_state
from support.commands import command
from support.disks import mounted
from support.making import small_run


def ragged(lm: LM, seed: int = 0) -> TokenizedTexts:
    """Seven texts of three lengths, some positions of each read."""
    generator = torch.Generator().manual_seed(seed)
    lengths_N = torch.tensor([9, 5, 9, 12, 5, 12, 9])
    tokens_NT = torch.randint(5, 30, (7, 12), generator=generator)
    read_NT = (torch.rand(7, 12, generator=generator) < 0.5) & (torch.arange(12) < lengths_N[:, None])
    read_NT[:, 2] = True
    return TokenizedTexts(tokens_NT, lengths_N, read_NT)


@pytest.mark.parametrize("model", ["neox", "bert"])
def test_each_text_is_read_as_if_it_were_alone(model: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    lm: LM = request.getfixturevalue(model)
    texts = ragged(lm)
    x_PD = ActivationCache(tmp_path, "lm", batch_size=2).read(lm, texts, "test")
    alone = [
        lm.activations(texts.tokens_NT[n : n + 1, :length])[0][texts.read_NT[n, :length]]
        for n, length in enumerate(texts.lengths_N.tolist())
    ]
    torch.testing.assert_close(x_PD, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_what_is_on_disk_is_not_read_from_the_lm_again(neox: LM, tmp_path: Path) -> None:
    cache, texts = ActivationCache(tmp_path, "lm", batch_size=2), ragged(neox)
    first_PD = cache.read(neox, texts, "test")
    (path,) = tmp_path.glob("*.npy")
    before = path.stat()
    second_PD = ActivationCache(tmp_path, "lm", batch_size=3).read(neox, texts, "test")
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert torch.equal(first_PD, second_PD)


def test_another_lm_or_reading_has_another_file(neox: LM, tmp_path: Path) -> None:
    same = ragged(neox)
    for key, texts in (("lm", same), ("another lm", same), ("lm", ragged(neox, seed=1))):
        ActivationCache(tmp_path, key, batch_size=4).read(neox, texts, "test")
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_a_reading_that_is_cut_short_leaves_no_file(neox: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = iter([False, True])
    activations = neox.activations

    def breaks(tokens_NT: torch.Tensor) -> torch.Tensor:
        if next(forwards):
            raise KeyboardInterrupt
        return activations(tokens_NT)

    monkeypatch.setattr(neox, "activations", breaks)
    with pytest.raises(KeyboardInterrupt):
        ActivationCache(tmp_path, "lm", batch_size=2).read(neox, ragged(neox), "test")
    assert not list(tmp_path.glob("*.npy"))


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(np.full(16, 7, dtype=np.float32).tobytes())


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(60_000))


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "overwritten": ("other bytes", overwritten),
    "cut": ("bytes in place of", lambda path: os.truncate(path, path.stat().st_size // 2)),
    "empty": ("0 bytes in place of", lambda path: os.truncate(path, 0)),
    "longer": ("bytes in place of", longer),
    "without digest": ("without a digest", lambda path: path.with_suffix(".json").unlink()),
    "digest cut": ("not JSON", lambda path: os.truncate(path.with_suffix(".json"), 20)),
    "digest of another kind": ("a list", lambda path: path.with_suffix(".json").write_text("[]")),
    "digest of another": ("other bytes", lambda path: write_another_digest(path.with_suffix(".json"))),
}


def write_another_digest(note: Path) -> None:
    before, _, after = note.read_text().partition('"sha256": "')
    note.write_text(f'{before}"sha256": "{"0" * 64}{after[64:]}')


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_as_it_was_written_is_made_again_and_said(
    damage: str, remembered: bool, neox: LM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = tmp_path / "digests" if remembered else None
    cache, texts = ActivationCache(tmp_path, "lm", batch_size=2, memory=memory), ragged(neox)
    made_PD = cache.read(neox, texts, "test").clone()
    (path,) = tmp_path.glob("*.npy")
    assert capsys.readouterr().out == ""
    said, do = DAMAGES[damage]
    do(path)
    assert torch.equal(cache.read(neox, texts, "test"), made_PD)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and str(path) in out and said in out and "made again" in out
    assert torch.equal(cache.read(neox, texts, "test"), made_PD)
    assert capsys.readouterr().out == ""
    assert {one.suffix for one in tmp_path.iterdir() if one.is_file()} == {".npy", ".json", ".lock"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of 64 KiB, where we may make one."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as folder:
        yield folder


def measuring(neox_folder: Path, corpus_folder: Path, tmp_path: Path, cache: Path) -> list[str]:
    """Overrides of a run whose evaluation keeps half a megabyte of activations."""
    run = small_run(neox_folder, corpus_folder, tmp_path)
    return [*run, "eval.families=[absorption]", "eval.concepts=[token_class]", f"eval.cache_dir={cache}"]


@pytest.mark.slow
@pytest.mark.parametrize("limited", [False, True])
def test_a_full_disk_ends_the_run_in_one_line(
    limited: bool, neox_folder: Path, corpus_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It was the end of the process, `Bus error`, and a run that stayed "running" for good."""
    cache: Path = tmp_path / "cache" if limited else request.getfixturevalue("small_disk")
    ended = command(measuring(neox_folder, corpus_folder, tmp_path, cache), file_limit=200_000 if limited else None)
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: no space left while writing {cache}/absorption_token_class-")
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/*/state.json"))
    state = read_state(folder / "state.json")
    assert state is not None and state.status == "failed"
    assert ("File too large" if limited else "No space left on device") in str(state.error)
    assert {path.suffix for path in cache.iterdir()} <= {".lock"}
    assert not [path for path in cache.iterdir() if path.stat().st_size]


@pytest.mark.slow
def test_a_full_disk_under_one_member_does_not_stop_the_next(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, small_disk: Path
) -> None:
    overrides = measuring(neox_folder, corpus_folder, tmp_path, small_disk)
    ended = command([*overrides, "seed=0,1", "-m"])
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1] == "error: 2 of 2 runs failed"
    states = [read_state(path) for path in sorted((tmp_path / "runs").glob("*/*/state.json"))]
    assert [state is not None and (state.status, state.step) for state in states] == [("failed", 16)] * 2


def test_means_are_those_of_each_text(neox: LM, tmp_path: Path) -> None:
    texts = ragged(neox)
    x_PD = torch.from_numpy(np.random.default_rng(0).normal(size=(int(texts.read_NT.sum()), 6))).float()
    f_NF, l0 = texts.pooled_latents(torch.relu, x_PD, 6)
    for text in range(texts.count):
        mine = x_PD[texts.texts_P == text]
        torch.testing.assert_close(texts.pooled(x_PD)[text], mine.mean(0))
        torch.testing.assert_close(f_NF[text], mine.relu().mean(0))
    assert l0 == pytest.approx((x_PD > 0).sum(1).double().mean().item())
