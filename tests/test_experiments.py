"""The experiments on LMs that are not at hand, from end to end: by name, from the hub's cache, without a network.

What stands in for an LM has its architecture, hook point and form of tokenizer, small sizes and random weights. So what
is left to fail elsewhere is the download.
"""

import csv
import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file

from masked_sae.interop.loading import load_sae
from support.commands import command
from support.standins import write_hub_cache

D_IN = 32
# Sizes, and nothing else.
CUT = [
    "data.train_tokens=8192",
    "data.batch_size=512",
    "data.window_tokens=8192",
    "data.scale_tokens=4096",
    "data.validation_share=0.2",
    "optim.warmup_steps=4",
    "sae.d_sae=1536",
    "sae.calibration_tokens=4096",
]
EVAL_CUT = ["eval.tokens=4096", "eval.concept_tokens=4096"]
SWEPT = ["mask.token.rate=0.0,0.3", "sae.k=20,40", "seed=0"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a node that has no network and a home in which everything lies."""
    home = tmp_path_factory.mktemp("home")
    write_hub_cache(home / "hf", tmp_path_factory.mktemp("made"))
    return {"HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "MASKED_SAE_CACHE": str(home / "cache")}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("experiment", "lm", "hook_name", "dtype"),
    [
        ("paper_pythia_160m", "EleutherAI/pythia-160m-deduped", "blocks.8.hook_resid_post", "float32"),
        ("paper_gemma_2_2b", "google/gemma-2-2b", "blocks.12.hook_resid_post", "bfloat16"),
    ],
)
def test_a_sweep_is_trained_measured_and_reported(
    experiment: str, lm: str, hook_name: str, dtype: str, node: dict[str, str], tmp_path: Path
) -> None:
    here = [f"output_dir={tmp_path}", "logger.wandb.mode=disabled", "trainer.device=cpu", "trainer.threads=1"]
    swept = [f"experiment={experiment}", "+sweep=paper_x_seeds", "-m", *SWEPT]
    trained = command([*swept, *CUT, "eval=none", *here], seconds=600, **node)
    assert trained.returncode == 0, trained.stderr
    sweep = tmp_path / "paper_x_seeds"
    measured = command([f"sweep={sweep}", "eval=quick", *EVAL_CUT], name="evaluate", seconds=600, **node)
    assert measured.returncode == 0, measured.stderr
    runs = sorted(path.parent for path in sweep.glob("*/results.json"))
    assert len(runs) == 4
    for run in runs:
        results = json.loads((run / "results.json").read_text())
        config, metrics = results["config"], results["metrics"]
        assert (config["lm"]["name"], config["lm"]["hook_name"], config["lm"]["dtype"]) == (lm, hook_name, dtype)
        assert results["status"] == "done"
        assert metrics["core/l0"] == pytest.approx(config["sae"]["k"], rel=0.15)  # thresholds are set on other text
        assert metrics["core/explained_variance"] < 1  # of 16 steps in 32 dimensions, far below 0
        assert all(value is None or math.isfinite(value) for value in metrics.values())
        sae, _ = load_sae(run / "sae")
        assert (sae.d_in, sae.d_sae) == (D_IN, 1536)
        assert all(weight.isfinite().all() for weight in load_file(run / "sae" / "sae_weights.safetensors").values())

    reported = command([f"sweep={sweep}", "figures=false"], name="report", seconds=600, **node)
    assert reported.returncode == 0, reported.stderr
    rows = list(csv.DictReader((sweep / "results.csv").open()))
    assert {row["run_id"] for row in rows} == {run.name for run in runs}
    assert "report.html" in reported.stdout and (sweep / "report.html").stat().st_size > 10_000
