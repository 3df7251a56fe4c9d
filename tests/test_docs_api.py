"""docs/api.md, run as it stands: its examples in their order, beside a sweep of two small runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import masked_sae
from masked_sae.runs.run import make_run
from masked_sae.training.train_run import train_run
from support.composing import small_config
from support.making import ROOT

PAGE = ROOT / "docs" / "api.md"


@pytest.fixture
def two_runs(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Path:
    """A sweep's folder, `runs/mask_rate`."""
    for rate in (0.0, 0.2):
        settings = [f"mask.token.rate={rate}", "name=mask_rate", "eval.families=[core]"]
        config = small_config(neox_folder, corpus_folder, tmp_path, *settings)
        train_run(make_run(config, {"mask.token.rate": str(rate)}))
    return tmp_path


def test_its_examples_run(two_runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(two_runs)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(names["runs"]) == 2 and set(names["runs"]["status"]) == {"done"}
    assert list(names["runs"]["mask.token.rate"]) == [0.0, 0.2]
    losses = [names[name].item() for name in ("clean", "spliced", "ablated", "steered")]
    assert len(set(losses)) >= 3  # an ablation of a latent that is not active changes nothing
    assert 0.3 < names["trained"].metrics.explained_variance < 1
    assert (two_runs / "my_sae" / "cfg.json").is_file()
    assert "mask.token.rate" in capsys.readouterr().out


def test_it_names_all_that_there_is() -> None:
    text = PAGE.read_text()
    for name in (*masked_sae.__all__, *masked_sae.evals.__all__):
        assert name in ("TrainedSAE", "InferenceSAE", "save_sae") or name in text, name


def test_all_that_it_names_is_there() -> None:
    for module in (masked_sae, masked_sae.evals):
        for name in module.__all__:
            assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        masked_sae.nothing  # noqa: B018


def test_importing_it_reads_nothing_heavy() -> None:
    told = "import sys, masked_sae; print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "numpy", "pandas", "omegaconf", "hydra", "transformers", "transformer_lens", "safetensors"}
    assert "masked_sae" in found and not heavy & set(found)
