"""`python -m src.evaluate`: runs, sweeps and SAEs from elsewhere, once and again."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.interop.saelens import export_sae
from masked_sae.report.build import write_report
from masked_sae.report.design import read_design
from masked_sae.report.runs_table import flat, read_runs
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import make_run
from masked_sae.saes import for_inference
from masked_sae.sweeps import measure
from masked_sae.sweeps.evaluate import evaluate_folders
from masked_sae.training.assemble import LMAndText, load_lm_and_text
from masked_sae.training.evaluation import unmeasured
from masked_sae.training.train_run import train_run
from support.architectures import trained
from support.composing import ROOT, small_config, small_overrides

pytestmark = pytest.mark.slow

EVALUATIONS = ["eval=quick", "eval.families=[core,absorption]", "eval.tokens=300", "eval.concept_tokens=400"]


@pytest.fixture
def config(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    return small_config(neox_folder, corpus_folder, tmp_path, "eval=none", f"eval.cache_dir={tmp_path / 'cache'}")


@pytest.fixture
def run(config: RunConfig) -> RunFolder:
    assert train_run(make_run(config, {})).status == "done"
    return make_run(config, {}).folder


def metrics(folder: RunFolder) -> dict[str, float]:
    return json.loads(folder.results.read_text())["metrics"]


def settings_for(config: RunConfig, neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    return small_config(
        neox_folder, corpus_folder, tmp_path, *EVALUATIONS, f"eval.cache_dir={tmp_path / 'cache'}", "name=evaluated"
    )


def test_a_run_without_metrics_gets_them_later(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert metrics(run) == {}
    settings = settings_for(config, neox_folder, corpus_folder, tmp_path)
    evaluate_folders("sae", [run.path], settings, [])
    assert metrics(run)["core/l0"] > 0
    assert any(key.startswith("absorption/token_class/") for key in metrics(run))
    assert "core/l0" in capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in run.evals.iterdir()}
    evaluate_folders("sae", [run.sae], settings, [])  # again, by another name: nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in run.evals.iterdir()} == written


def test_an_evaluation_goes_on_where_it_was_stopped(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    settings = settings_for(config, neox_folder, corpus_folder, tmp_path)
    evaluate_folders("sae", [run.path], settings, [])
    whole = metrics(run)
    kept = (run.evals / "core.json").stat().st_mtime_ns
    (run.evals / "absorption.json").unlink()
    assert unmeasured(run, settings.eval) == ["absorption"]
    evaluate_folders("sae", [run.path], settings, [])
    assert metrics(run) == whole
    assert (run.evals / "core.json").stat().st_mtime_ns == kept


def test_training_again_measures_what_is_newly_asked_for(config: RunConfig, run: RunFolder) -> None:
    weights = (run.sae / "sae_weights.safetensors").stat().st_mtime_ns
    asked = replace(config, eval=replace(config.eval, families=["core"]))
    assert train_run(make_run(asked, {})).status == "done"
    assert metrics(run)["core/l0"] > 0
    assert (run.sae / "sae_weights.safetensors").stat().st_mtime_ns == weights


def test_an_sae_from_elsewhere_is_measured_like_the_run_that_it_is(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    settings = settings_for(config, neox_folder, corpus_folder, tmp_path)
    evaluate_folders("sae", [run.path], settings, [])
    shutil.copytree(run.sae, tmp_path / "downloaded")
    evaluate_folders("sae", [tmp_path / "downloaded"], settings, [])
    (folder,) = (Path(settings.output_dir) / "evaluated").iterdir()
    assert folder.name.startswith("downloaded-")
    assert metrics(RunFolder(folder)) == pytest.approx(metrics(run), rel=1e-6)
    assert json.loads((folder / "state.json").read_text())["status"] == "done"


def downloaded(run: RunFolder, place: Path) -> Path:
    """An SAE as somebody else would give it: nothing in it tells that it is ours."""
    shutil.copytree(run.sae, place)
    cfg = json.loads((place / "cfg.json").read_text())
    cfg["metadata"] = {key: cfg["metadata"][key] for key in ("model_name", "hook_name", "context_size")}
    (place / "cfg.json").write_text(json.dumps(cfg))
    return place


def flat_keys(folder: Path) -> set[str]:
    return set(dict(flat(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))))  # pyright: ignore


def test_of_an_sae_from_elsewhere_nothing_is_on_record_that_nobody_knows(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    origin = downloaded(run, tmp_path / "downloaded")
    settings = settings_for(config, neox_folder, corpus_folder, tmp_path)
    evaluate_folders("sae", [origin], settings, [])
    (folder,) = (Path(settings.output_dir) / "evaluated").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["reference"]["origin"] == str(origin.resolve())
    assert set(results["config"]) == {"lm", "data", "trainer", "sae", "eval"}
    cfg = json.loads((origin / "cfg.json").read_text())
    known = {key: cfg[key] for key in ("architecture", "d_in", "d_sae", "k") if key in cfg}
    assert results["config"]["sae"] == known
    assert results["config"]["data"]["context_length"] == cfg["metadata"]["context_size"]
    assert not {"data.train_tokens", "data.batch_size", "seed", "optim.lr", "mask.token.rate"} & flat_keys(folder)
    (row,) = read_runs([folder.parent]).references.to_dict("records")
    assert row["run_id"] == folder.name and row["core/l0"] == results["metrics"]["core/l0"]


def test_an_sae_from_elsewhere_is_measured_again_from_where_it_lies_and_with_a_sweep(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    origin = downloaded(run, tmp_path / "downloaded")
    settings = replace(settings_for(config, neox_folder, corpus_folder, tmp_path), name=run.path.parent.name)
    core = replace(settings, eval=replace(settings.eval, families=["core"]))
    evaluate_folders("sae", [origin], core, [])
    (folder,) = Path(run.path.parent).glob("downloaded-*")
    evaluate_folders("sae", [origin], core, [])  # nothing to do, in the same folder
    written = (folder / "config.yaml").read_text(), metrics(RunFolder(folder))
    evaluate_folders("sae", [folder], core, [])
    assert ((folder / "config.yaml").read_text(), metrics(RunFolder(folder))) == written
    evaluate_folders("sweep", [run.path.parent], settings, [])
    assert any(key.startswith("absorption/") for key in metrics(RunFolder(folder)))
    assert metrics(RunFolder(folder)) == pytest.approx(metrics(run), rel=1e-6)
    assert "left out" not in capsys.readouterr().out
    (origin / "cfg.json").write_text((origin / "cfg.json").read_text() + " ")
    with pytest.raises(InputError, match="changed since"):
        evaluate_folders("sae", [folder], core, [])
    shutil.rmtree(origin)
    with pytest.raises(InputError, match=f"still in {origin.resolve()}"):
        evaluate_folders("sae", [folder], core, [])


SAVED = Path(__file__).parents[1] / "interop" / "dictionary_learning"


def test_an_sae_of_dictionary_learning_is_measured_and_shown_beside_and_in_no_arm(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    settings = replace(settings_for(config, neox_folder, corpus_folder, tmp_path), name=run.path.parent.name)
    core = replace(settings, eval=replace(settings.eval, families=["core"]))
    evaluate_folders("sae", [run.path], core, [])
    without = read_design(read_runs([run.path.parent]))
    overrides = [f"lm.name={neox_folder}"]  # what the files name is not here
    evaluate_folders("sae", [str(SAVED / "batch_topk")], core, overrides)
    (folder,) = run.path.parent.glob("batch_topk-*")
    results = json.loads((folder / "results.json").read_text())
    assert results["metrics"]["core/l0"] > 0 and results["reference"]["origin"] == str(SAVED / "batch_topk")
    assert results["reference"]["says"] == {
        "model_name": "somebody/an-lm", "hook_name": "blocks.1.hook_resid_post", "context_size": 16
    }  # fmt: skip
    assert results["config"]["sae"] == {"architecture": "BatchTopKSAE", "d_in": 32, "d_sae": 24, "k": 4}
    runs = read_runs([run.path.parent])
    assert list(runs.references["run_id"]) == [folder.name]
    design = read_design(runs)
    assert (design.arms, design.strata, design.sparsities) == (without.arms, without.strata, without.sparsities)
    assert folder.name in write_report([run.path.parent]).read_text()


def test_an_sae_for_other_activations_is_told_in_one_line(
    config: RunConfig, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    export_sae(tmp_path / "narrow", for_inference(trained("topk"), 1.0), {"model_name": str(neox_folder)})
    settings = settings_for(config, neox_folder, corpus_folder, tmp_path)
    with pytest.raises(InputError, match=r"sae=.*narrow: expected an SAE for the 32 dimensions of .*: this one has 16"):
        evaluate_folders("sae", [tmp_path / "narrow"], settings, ["lm.hook_name=blocks.1.hook_resid_post"])


@pytest.mark.parametrize("lost", ["data.store_dir", "data", "lm.hook_name", "sae", "mask"])
def test_what_a_runs_configuration_lost_is_not_made_up(
    lost: str, config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    stored = OmegaConf.to_container(OmegaConf.load(run.config))
    room, _, key = lost.partition(".")
    del (stored[room] if key else stored)[key or room]  # pyright: ignore
    run.config.write_text(OmegaConf.to_yaml(OmegaConf.create(stored)))
    settings = settings_for(config, neox_folder, corpus_folder, tmp_path)
    with pytest.raises(InputError) as refused:
        evaluate_folders("sae", [run.path], settings, [])
    assert str(run.config) in str(refused.value) and room in str(refused.value)
    if key:
        evaluate_folders("sae", [run.path], settings, [f"{lost}=named"])
        assert metrics(run)["core/l0"] > 0


def test_damaged_results_are_written_and_a_damaged_family_is_measured_again(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings = settings_for(config, neox_folder, corpus_folder, tmp_path)
    evaluate_folders("sae", [run.path], settings, [])
    whole = run.results.read_text()
    for text in ("", "[]", '{"metrics": {"core/l0": NaN}}'):
        run.results.write_text(text)
        evaluate_folders("sae", [run.path], settings, [])
        assert run.results.read_text() == whole
    run.family("core").write_text('{"settings": {}}')
    evaluate_folders("sae", [run.path], settings, [])
    assert "core.json is damaged (it has no metrics): it is measured again" in capsys.readouterr().err
    assert run.results.read_text() == whole


def test_fewer_held_out_tokens_than_asked_for_are_said(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings = settings_for(config, neox_folder, corpus_folder, tmp_path)
    enough = replace(settings, eval=replace(settings.eval, families=["core"]))
    evaluate_folders("sae", [run.path], enough, [])
    assert "note: core/tokens" not in capsys.readouterr().out
    evaluate_folders("sae", [run.path], replace(enough, eval=replace(enough.eval, tokens=10**6)), [])
    note = f"measured on {metrics(run)['core/tokens']:,.0f} held-out tokens of the 1,000,000 of eval.tokens"
    assert f"note: core/tokens: {note}" in capsys.readouterr().out
    assert note in json.loads(run.results.read_text())["notes"]["core/tokens"]
    assert note in json.loads(run.family("core").read_text())["notes"]["tokens"]
    assert note in write_report([run.path.parent], figures=False).read_text()


def test_a_sweep_is_measured_with_one_reading_of_the_activations(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = replace(config, seed=1)
    train_run(make_run(other, {}))
    unfinished = run.path.parent / "rate9-00000000"
    unfinished.mkdir()
    (unfinished / "state.json").write_text((run.state).read_text().replace('"done"', '"failed"'))
    evaluate_folders("sweep", [run.path.parent], settings_for(config, neox_folder, corpus_folder, tmp_path), [])
    both = [metrics(run), metrics(make_run(other, {}).folder)]
    assert all(one["core/l0"] > 0 for one in both) and both[0] != both[1]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    assert "left out: rate9-00000000: failed" in capsys.readouterr().out


def test_members_at_two_hook_points_have_the_figures_that_they_have_alone_and_load_the_lm_once(
    config: RunConfig, run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    lm = replace(config.lm, hook_name="blocks.0.hook_mlp_out")
    others = [replace(config, seed=1), replace(config, lm=lm), replace(config, data=replace(config.data, seed=5))]
    for other in others:
        train_run(make_run(other, {}))
    folders = [run, *(make_run(other, {}).folder for other in others)]
    settings = settings_for(config, neox_folder, corpus_folder, tmp_path)
    alone: list[dict[str, float]] = []
    for folder in folders:
        evaluate_folders("sae", [folder.path], settings, [])
        alone.append(metrics(folder))
    loaded: list[str] = []

    def load(config: RunConfig, *others: Any) -> LMAndText:
        loaded.append(config.lm.name)
        return load_lm_and_text(config, *others)

    monkeypatch.setattr(measure, "load_lm_and_text", load)
    evaluate_folders("sweep", [run.path.parent], replace(settings, force=True), [])
    assert [metrics(folder) for folder in folders] == alone
    assert loaded == [str(neox_folder)]
    assert len({metrics(folder)["core/ce_sae"] for folder in folders}) == 4


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "expected either sae=FOLDER or sweep=FOLDER"),
        (["sae=nowhere"], "sae=nowhere: expected a folder that exists"),
        (["sae=docs"], "it holds no cfg.json"),
        (["sweep=docs"], "sweep=docs: expected a sweep's folder"),
        (["sae=docs", "eval.families=[speed]"], "eval.families=speed: expected one of absorption, core"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "src.evaluate", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert line in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_command_takes_folders_and_settings(
    run: RunFolder, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    overrides = [o for o in small_overrides(neox_folder, corpus_folder, tmp_path) if not o.startswith(("sae.", "lm."))]
    cache = f"eval.cache_dir={tmp_path / 'cache'}"
    command = [sys.executable, "-m", "src.evaluate", f"sae={run.path}", *overrides, *EVALUATIONS, cache]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "core/explained_variance" in done.stdout
    assert metrics(run)["core/l0"] > 0
