"""The page of absorption on the embedded LM: its figures are the metric's, two runs are at the same positions."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.sequences import make_sequences
from masked_sae.errors import InputError
from masked_sae.interop.saelens import export_sae
from masked_sae.latents.absorption_build import refuse_other_lm, write_absorption
from masked_sae.latents.absorption_cases import Outcome
from masked_sae.latents.absorption_view import ShownConcept, ShownLatent, ShownSet, shown_sets
from masked_sae.latents.opened import OpenedRun
from masked_sae.runs.config_file import write_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import read_results
from masked_sae.runs.run import Run
from masked_sae.saes import InferenceSAE
from masked_sae.text.tokenizer import encode
from masked_sae.training.evaluation import evaluate, make_context
from support.making import ROOT, compose

pytestmark = pytest.mark.slow

TINY = ROOT / "assets" / "tiny_lm"
LATENTS = 96


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_lm(str(TINY), "blocks.2.hook_resid_post")


def make_sae(lm: LM, seed: int) -> InferenceSAE:
    """Directions that nobody trained: what main latents miss, another often carries."""
    rows_FD = torch.randn(LATENTS, lm.d_in, generator=torch.Generator().manual_seed(seed))
    W_dec_FD, zeros_D = F.normalize(rows_FD, dim=1), torch.zeros(lm.d_in)
    return InferenceSAE(W_dec_FD.T.contiguous(), torch.zeros(LATENTS), W_dec_FD, zeros_D, zeros_D, k=6)


@pytest.fixture(scope="module")
def opened(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> list[OpenedRun]:
    """Two runs that are done, and their folders."""
    folder = tmp_path_factory.mktemp("runs")
    asked = ["eval.families=[absorption]", "eval.concept_tokens=1500", f"eval.cache_dir={folder / 'cache'}"]
    config = compose([*asked, "trainer.progress=false", "logger.wandb.mode=disabled", f"output_dir={folder}"])
    tokens = np.array(encode(lm.tokenizer, [inspect.getsource(inspect)])[0], dtype=np.uint16)
    context = make_context(config, lm, make_sequences(tokens, 64, lm.special))
    found: list[OpenedRun] = []
    for seed, name in enumerate(("one", "the <other>")):
        sae, run = make_sae(lm, seed), Run(RunFolder(folder / name), {}, config)
        write_config(run.folder.config, run.settings)
        export_sae(run.folder.sae, sae, {"hook_name": config.lm.hook_name})
        evaluate(run, sae, context, {})
        found.append(OpenedRun(run, sae, context))
    return found


@pytest.fixture(name="both", scope="module")
def sets_of_both(opened: Sequence[OpenedRun]) -> list[ShownSet]:
    return shown_sets([one.sae for one in opened], opened[0].context, ["token_class"])


def test_its_means_are_those_of_the_results_to_the_bit(opened: Sequence[OpenedRun], both: Sequence[ShownSet]) -> None:
    assert [one.ranking for one in both] == ["weight", "contribution"]
    for shown in both:
        assert list(shown.means) == [read_results(one.run.folder).metrics[shown.metric] for one in opened]
        assert 0 < min(shown.means) < 1
        rates = [max(side.cases.full_absorption for side in concept.sides) for concept in shown.concepts]
        assert rates == sorted(rates, reverse=True)


def test_positions_of_two_runs_are_sorted_by_which_absorbs(both: Sequence[ShownSet]) -> None:
    for concept in (concept for shown in both for concept in shown.concepts):
        one, other = ([outcome == "absorbed" for outcome in side.cases.outcomes] for side in concept.sides)
        pairs = list(zip(one, other, strict=True))
        wanted = [(True, False), (False, True), (True, True), (False, False)]
        assert [group.total for group in concept.groups] == [pairs.count(pair) for pair in wanted]
        for group, pair in zip(concept.groups, wanted, strict=True):
            assert len(group.shown) <= group.total and (group.shown or not group.total)
            for position in group.shown:
                assert tuple(case.outcome is Outcome.ABSORBED for case in position.cases) == pair
                assert len({case.position for case in position.cases}) == 1
                assert len({(case.logit, case.along) for case in position.cases}) == 1  # the LM's: no SAE enters


def test_the_tokens_shown_are_those_of_the_concept(both: Sequence[ShownSet]) -> None:
    capitalised = next(concept for concept in both[0].concepts if concept.name == "capitalised")
    for position in (position for group in capitalised.groups for position in group.shown):
        assert position.context.token.strip()[:1].isupper()


def test_of_one_run_positions_are_absorbed_or_missed(opened: Sequence[OpenedRun], both: Sequence[ShownSet]) -> None:
    alone = shown_sets([opened[0].sae], opened[0].context, ["token_class"])
    assert [list(one.means) for one in alone] == [list(one.means[:1]) for one in both]
    for concept in (concept for shown in alone for concept in shown.concepts):
        cases = concept.sides[0].cases
        assert [group.total for group in concept.groups] == [
            cases.count(one) for one in (Outcome.ABSORBED, Outcome.MISSED)
        ]
        assert all(latent.match is None for latent in (*concept.sides[0].main, *concept.sides[0].absorbing))


def test_a_run_beside_itself_differs_nowhere(opened: Sequence[OpenedRun]) -> None:
    for shown in shown_sets([opened[0].sae] * 2, opened[0].context, ["token_class"]):
        for concept in shown.concepts:
            assert [group.total for group in concept.groups[:2]] == [0, 0]
            roles = [(one.of.latent, one.match, one.role) for one in latents_of(concept)]
            assert all(match and match.mutual and match.latent == latent and role for latent, match, role in roles)


def latents_of(concept: ShownConcept) -> list[ShownLatent]:
    return [one for side in concept.sides for one in (*side.main, *side.absorbing)]


def test_pages_are_of_where_the_run_was_measured_and_link_to_latents(opened: Sequence[OpenedRun]) -> None:
    one, other = with_fewer_tokens(opened[0]), opened[1]
    (other.run.folder.path / "latents.html").touch()
    alone, beside = write_absorption(one, []), write_absorption(one, [], other.run)
    assert alone == one.run.folder.path / "absorption.html"
    assert one.run.folder.absorption_pages() == {"": alone, "the <other>": beside}
    assert "#latent=" not in alone.read_text() and "they were measured on other" not in alone.read_text()
    text = beside.read_text()
    assert 'href="../the%20%3Cother%3E/latents.html#latent=' in text
    assert "the &lt;other&gt;" in text and "<other>" not in text and "they were measured on other" not in text


def with_fewer_tokens(opened: OpenedRun) -> OpenedRun:
    """As the command's defaults have it, where the run was measured with others."""
    fewer = replace(opened.run.config.eval, concept_tokens=1000)
    return replace(opened, run=replace(opened.run, config=replace(opened.run.config, eval=fewer)))


def test_what_the_command_line_says_goes_first_and_is_said_to_be_other(opened: Sequence[OpenedRun]) -> None:
    page = write_absorption(with_fewer_tokens(opened[0]), ["eval.concept_tokens=1000"])
    assert "The results of one have" in page.read_text()


def test_what_cannot_be_measured_on_an_lm_is_said(opened: Sequence[OpenedRun], neox: LM, tmp_path: Path) -> None:
    config = replace(opened[0].run.config, eval=replace(opened[0].run.config.eval, concepts=["token_class"]))
    random = np.random.default_rng(0).integers(1, 257, size=2000, dtype=np.uint16)
    context = make_context(config, neox, make_sequences(random, 16, neox.special))
    run = Run(RunFolder(tmp_path / "run"), {}, config)
    write_config(run.folder.config, run.settings)
    sae = make_sae(neox, 0)
    page = write_absorption(OpenedRun(run, sae, context), ["eval.concepts=[token_class]"])
    assert "of 10 concepts have a ground-truth probe with an F1 over 0.6; 5 are needed" in page.read_text()
    (shown,) = shown_sets([sae], context, ["first_letter"])
    assert shown.not_measurable is not None and "an LM that takes its texts" in shown.not_measurable


def test_runs_of_another_lm_or_hook_point_are_refused(opened: Sequence[OpenedRun], neox_folder: Path) -> None:
    run, lm = opened[0].run, opened[0].run.config.lm
    elsewhere = replace(run, config=replace(run.config, lm=replace(lm, hook_name="blocks.1.hook_resid_post")))
    with pytest.raises(InputError, match=r"against=.*: expected a run at the same hook point, blocks\.2\.hook"):
        refuse_other_lm(run, elsewhere)
    of_another = replace(run, config=replace(run.config, lm=replace(lm, name=str(neox_folder))))
    with pytest.raises(InputError, match=r"against=.*: expected a run of the same LM, .*tiny_lm: this one is of"):
        refuse_other_lm(run, of_another)
    refuse_other_lm(run, opened[1].run)
