"""Runs measured together and alone; and what an evaluation keeps on disk."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import make_sequences
from masked_sae.evals.context import EvalContext
from masked_sae.runs.run import Run, make_run
from masked_sae.saes import InferenceSAE
from masked_sae.training import evaluation
from support.composing import small_config
from support.counting import calls_of, forwards_of
from support.making import compose, distinct_tokens


def test_activations_on_disk_are_another_librarys_no_more_than_another_lms(
    neox: LM, neox_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose([f"lm.name={neox_folder}"])
    held_out = make_sequences(distinct_tokens(100), 16, neox.special)
    here = evaluation.make_context(config, neox, held_out).cache.lm_key
    assert here == evaluation.make_context(config, neox, held_out).cache.lm_key
    monkeypatch.setattr(evaluation, "version", lambda package: "another")
    assert evaluation.make_context(config, neox, held_out).cache.lm_key != here


@pytest.fixture(name="runs")
def four_runs(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> list[Run]:
    """Of different sparsity; the second asks for less."""
    families = ["core,absorption", "core", "core,absorption", "core,absorption"]
    return [
        make_run(
            small_config(
                neox_folder, corpus_folder, tmp_path, f"sae.k={k}", "eval=quick", f"eval.families=[{asked}]",
                "eval.tokens=300", "eval.concept_tokens=400", f"eval.cache_dir={tmp_path / 'cache'}",
            ),
            {},
        )
        for k, asked in enumerate(families, start=3)
    ]  # fmt: skip


def sae_of(lm: LM, k: int) -> InferenceSAE:
    W_dec_FD = torch.nn.functional.normalize(
        torch.randn(64, lm.d_in, generator=torch.Generator().manual_seed(k)), dim=1
    )
    zeros_D = torch.zeros(lm.d_in)
    return InferenceSAE(W_dec_FD.T.contiguous(), torch.zeros(64), W_dec_FD, zeros_D, zeros_D, k=k)


def context_of(run: Run, lm: LM) -> EvalContext:
    return evaluation.make_context(run.config, lm, make_sequences(distinct_tokens(1000), 16, lm.special))


def written(run: Run) -> dict[str, Any]:
    """What a run's folder holds, but for times."""
    files = {path.name: json.loads(path.read_text()) for path in [*run.folder.evals.iterdir(), run.folder.results]}
    for file in files.values():
        assert file.pop("seconds", 0.0) >= 0
    return files


def test_runs_measured_together_hold_what_each_holds_alone(neox: LM, runs: list[Run]) -> None:
    saes = [sae_of(neox, k) for k in range(3, 7)]
    alone: list[dict[str, Any]] = []
    for run, sae in zip(runs, saes, strict=True):
        evaluation.evaluate(run, sae, context_of(run, neox), {})
        alone.append(written(run))
        shutil.rmtree(run.folder.path)
    assert [sorted(files) for files in alone] == [
        ["absorption.json", "core.json", "results.json"] if place != 1 else ["core.json", "results.json"]
        for place in range(4)
    ]
    context = context_of(runs[0], neox)
    found = evaluation.evaluate_all(runs, saes, context, [{}] * 4)
    assert [written(run) for run in runs] == alone
    assert found == [files["results.json"]["metrics"] for files in alone]
    shutil.rmtree(runs[2].folder.path)
    runs[0].folder.family("absorption").unlink()
    kept = runs[3].folder.family("core").stat().st_mtime_ns
    evaluation.evaluate_all(runs[::-1], saes[::-1], context_of(runs[0], neox), [{}] * 4)  # only what is missing
    assert [written(run) for run in runs] == alone
    assert runs[3].folder.family("core").stat().st_mtime_ns == kept


def test_one_run_that_cannot_be_measured_harms_no_other(neox: LM, runs: list[Run]) -> None:
    saes = [sae_of(neox, k) for k in range(3, 7)]
    expected = evaluation.evaluate_all(runs, saes, context_of(runs[0], neox), [{}] * 4)
    for run in runs:
        shutil.rmtree(run.folder.path)
    saes[2] = replace(saes[2], W_dec_FD=saes[2].W_dec_FD * torch.nan)
    found = evaluation.evaluate_all(runs, saes, context_of(runs[0], neox), [{}] * 4)
    assert isinstance(found[2], ValueError) and not runs[2].folder.results.exists()
    assert [found[place] for place in (0, 1, 3)] == [expected[place] for place in (0, 1, 3)]
    with pytest.raises(ValueError, match="not finite"):
        evaluation.evaluate(runs[2], saes[2], context_of(runs[2], neox), {})


def test_the_lm_reads_the_text_once_for_all_runs(neox: LM, runs: list[Run]) -> None:
    alike = [runs[0], runs[2], runs[3]]
    saes = [sae_of(neox, k) for k in range(3, 6)]
    context = context_of(runs[0], neox)
    evaluation.evaluate_all(alike[:1], saes[:1], context, [{}])  # concepts are on disk by now, zeros in the context
    shutil.rmtree(alike[0].folder.path)
    counts: list[int] = []
    for count in (1, 3):
        with forwards_of(neox) as forwards, calls_of(neox.bridge.blocks[0].original_component) as whole:
            evaluation.evaluate_all(alike[:count], saes[:count], context, [{}] * count)
        counts += [len(forwards), len(whole)]
        for run in alike[:count]:
            shutil.rmtree(run.folder.path)
    batches = counts[1]
    assert batches > 0
    assert counts == [2 * batches, batches, 4 * batches, batches]
