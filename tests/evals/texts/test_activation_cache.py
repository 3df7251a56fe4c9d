"""Activations are read once, in order, and never with padding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from masked_sae.activations.lm import LM
from masked_sae.evals.texts.activation_cache import ActivationCache, TokenizedTexts


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


def test_means_are_those_of_each_text(neox: LM, tmp_path: Path) -> None:
    texts = ragged(neox)
    x_PD = torch.from_numpy(np.random.default_rng(0).normal(size=(int(texts.read_NT.sum()), 6))).float()
    f_NF, l0 = texts.pooled_latents(torch.relu, x_PD, 6)
    for text in range(texts.count):
        mine = x_PD[texts.texts_P == text]
        torch.testing.assert_close(texts.pooled(x_PD)[text], mine.mean(0))
        torch.testing.assert_close(f_NF[text], mine.relu().mean(0))
    assert l0 == pytest.approx((x_PD > 0).sum(1).double().mean().item())
