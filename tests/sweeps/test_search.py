"""A search: members drawn by what those before them came to, a study that goes on, and what is stopped early."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.pruners import BasePruner, ThresholdPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from masked_sae.errors import InputError
from masked_sae.report.build import write_report
from masked_sae.report.runs_table import read_runs
from masked_sae.runs.results import read_results
from masked_sae.runs.search_record import read_search
from masked_sae.runs.state import read_state
from masked_sae.runs.sweep_record import read_members
from masked_sae.sweeps.confirm import jobs_to_confirm
from masked_sae.sweeps.outcome import outcome_of
from support.composing import ROOT, small_overrides
from support.searching import Here, named, trials_of

pytestmark = pytest.mark.slow

OBJECTIVE = "core/explained_variance"
RATE = "mask.token.rate=interval(0.0,0.6)"


@pytest.fixture
def here(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Here:
    settings = ("name=search", "eval.families=[core]", f"objective={OBJECTIVE}")
    return Here(neox_folder, corpus_folder, tmp_path, settings)


def test_a_search_started_again_with_more_trials_goes_on_as_if_it_had_not_stopped(here: Here, tmp_path: Path) -> None:
    first = here.search(RATE, trials=2)
    assert [one.state for one in first] == [TrialState.COMPLETE] * 2
    whole = here.search(RATE, trials=4)
    assert len(here.trained) == 4, "no member was trained anew"
    assert [one.params for one in whole[:2]] == [one.params for one in first]
    at_once = Here(here.lm, here.corpus, tmp_path / "undisturbed", here.settings).search(RATE, trials=4)
    assert [(one.params, one.values) for one in at_once] == [(one.params, one.values) for one in whole]
    members = {member.folder.run_id: member for member in read_members(tmp_path / "runs" / "search")}
    for one in whole:
        member = members[one.user_attrs["run"]]
        assert one.values == [read_results(member.folder).metrics[OBJECTIVE]]
    record = read_search(tmp_path / "runs" / "search")
    assert record is not None and record.trials == {"complete": 4}
    assert record.best[0].values == [max(one.values[0] for one in whole if one.values)]


class Killed(BaseException):
    pass


def test_a_search_that_was_killed_goes_on_with_the_members_that_it_had_begun(here: Here) -> None:
    class Dying(Here):
        def train(self, runs, *, of_search):  # type: ignore[no-untyped-def]
            if len(self.trained) == 1:
                raise Killed
            super().train(runs, of_search=of_search)

    dying = Dying(here.lm, here.corpus, here.out, here.settings)
    with pytest.raises(Killed):
        dying.search(RATE, trials=3)
    plan = here.plan(RATE, trials=3)
    journal = plan.sweep / "study.journal"
    assert [one.state for one in trials_of(plan)] == [TrialState.COMPLETE, TrialState.RUNNING]
    begun = trials_of(plan)[1].params
    with journal.open("ab") as file:
        file.write(b'{"op_code": 6, "wor')  # as a kill leaves it
    (plan.sweep / "study.journal.lock").symlink_to(journal)
    since = time.monotonic()
    after = here.search(RATE, trials=3)
    assert time.monotonic() - since < 25, "nobody waited for a dead process's lock"
    assert [one.state for one in after] == [TrialState.COMPLETE] * 3
    assert after[1].params == begun


def test_a_member_that_fails_is_a_failed_trial_and_the_search_goes_on(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = here.search("optim.lr=0.001,1e+30", "optim.gradient_clip=0", trials=4)
    failed = {one.params["optim.lr"] for one in trials if one.state == TrialState.FAIL}
    done = {one.params["optim.lr"] for one in trials if one.state == TrialState.COMPLETE}
    assert (failed, done) == ({"1e+30"}, {"0.001"})
    assert "failed: the loss is" in capsys.readouterr().out
    again = here.search("optim.lr=0.001,1e+30", "optim.gradient_clip=0", trials=4)
    assert len(again) > len(trials), "failures of an earlier start are not counted"


def test_values_that_do_not_go_together_fail_their_trial_and_end_the_search_where_none_do(here: Here) -> None:
    trials = here.search("sae.k=4,999", trials=4)
    states = {one.params["sae.k"]: one.state for one in trials}
    assert states == {"4": TrialState.COMPLETE, "999": TrialState.FAIL}
    elsewhere = named(here, "name=none", "lm.hook_name=nowhere")
    with pytest.raises(SystemExit):
        elsewhere.search(RATE, trials=1)


class AllButTheFirst(BasePruner):
    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return trial.number > 0 and trial.last_step is not None


def test_members_that_the_pruner_gives_up_end_pruned_and_are_in_no_comparison(here: Here, tmp_path: Path) -> None:
    long = named(here, "data.train_tokens=40000", "data.max_epochs=1000", "trainer.checkpoint_every_steps=100")
    first, second = long.search(RATE, trials=2, pruner=AllButTheFirst())
    assert (first.state, second.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    sweep = tmp_path / "runs" / "search"
    members = {member.folder.run_id: member for member in read_members(sweep)}
    pruned = members[second.user_attrs["run"]]
    state = read_state(pruned.folder.state)
    assert state is not None and state.status == "pruned" and 0 < state.step < state.steps
    assert state.error is not None and "val/explained_variance" in state.error
    assert second.intermediate_values and len(first.intermediate_values) >= 78
    runs = read_runs([sweep])
    assert list(runs.measured["run_id"]) == [first.user_attrs["run"]]
    assert list(runs.unfinished["status"]) == ["pruned"]
    assert outcome_of(pruned, [OBJECTIVE]).status == "pruned"


def test_several_objectives_are_a_front_of_which_each_is_confirmed_on_new_seeds_beside_an_unmasked_run(
    here: Here,
) -> None:
    several = named(here, "objective=[core/explained_variance,core/ce_recovered]")
    trials = several.search(RATE, "mask.token.schedule=constant,linear", trials=3, at_once=3)
    assert all(one.values is not None and len(one.values) == 2 for one in trials)
    plan = several.plan(RATE, "mask.token.schedule=constant,linear", trials=3)
    record = read_search(plan.sweep)
    assert record is not None and 1 <= len(record.best) <= 3
    jobs = jobs_to_confirm(plan, 2)
    assert len(jobs) == 2 * (len(record.best) + 1)
    of_seed = [job for job in jobs if "seed=100" in job]
    assert ("mask.token.rate=0", "mask.token.schedule=constant") in [job[:2] for job in of_seed]
    assert all(job[-1] == "name=search_confirmed" for job in jobs)


def test_the_report_states_what_was_found_from_new_seeds_alone(here: Here) -> None:
    here.search(RATE, trials=2)
    plan = here.plan(RATE, trials=2)

    def said() -> str:
        write_report([plan.sweep], figures=False)
        return (plan.sweep / "findings.md").read_text() + (plan.sweep / "report.html").read_text()

    record = read_search(plan.sweep)
    assert record is not None
    own = f"{record.best[0].values[0]:.3g}"
    before = said()
    assert (
        before.count("search is a search for core/explained_variance over mask.token.rate interval(0.0,0.6): 2 done.")
        == 2
    )
    assert before.count("python -m src.train +sweep=x hydra.sweeper.confirm=5 -m") == 2
    assert "had no part in the choice" not in before
    runs = [here.run_of(job) for job in jobs_to_confirm(plan, 2)]
    here.train(runs, of_search=False)
    values = [read_results(run.folder).metrics[OBJECTIVE] for run in runs[:2]]  # those that are masked
    after = said()
    stated = re.findall(r"On 2 seeds that had no part in the choice, Explained variance: ([0-9.-]+) \[", after)
    assert len(stated) == 2 and float(stated[0]) == pytest.approx(sum(values) / 2, abs=0.01), own
    assert "hydra.sweeper.confirm" not in after.split("</main>")[0].split('<section id="settings"')[0]


def test_another_search_in_the_same_folder_is_refused_with_what_differs(here: Here) -> None:
    here.search(RATE, trials=1)
    with pytest.raises(InputError, match=r"^sae\.k=5: expected 4, which the search in .*search was begun with"):
        named(here, "sae.k=5").search(RATE, trials=2)
    with pytest.raises(InputError, match=r"^mask\.token\.rate=interval\(0,1\): expected interval\(0\.0,0\.6\)"):
        here.search("mask.token.rate=interval(0,1)", trials=2)


def test_what_cannot_be_searched_is_refused_before_training(here: Here) -> None:
    for settings, space, pruner, said in (
        (["objective=null"], [RATE], None, r"^objective=None: expected what to look for"),
        (["detach=true"], [RATE], None, r"^detach=True: expected false"),
        ([], ["seed=0,1"], None, r"^seed=0,1: expected one value: .* luckiest"),
        ([], ["name=a,b"], None, r"^name=a,b: expected one value"),
        ([], ["sae.k=4"], None, r"^hydra\.sweeper\.params=\{\}: expected what to search"),
        (["objective=core/mse"], [RATE], ThresholdPruner(lower=0), r"^hydra\.sweeper\.pruner=of core/mse"),
        (["trainer.validate_every_steps=null"], [RATE], ThresholdPruner(lower=0), r"^trainer\.validate_every_steps"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            named(here, *settings).search(*space, trials=1, pruner=pruner)
    assert here.trained == []


def test_an_objective_that_was_not_measured_is_told_with_those_that_were(here: Here) -> None:
    lacking = named(here, "eval.families=[core,ground_truth]", "objective=ground_truth/recovered")
    with pytest.raises(InputError, match=r"^objective=ground_truth/recovered: expected a metric that was measured of"):
        lacking.search(RATE, trials=2)


def train(out: Path, lm: Path, corpus: Path, *words: str) -> list[str]:
    settings = [*small_overrides(lm, corpus, out), "eval.families=[core]", f"objective={OBJECTIVE}"]
    return [sys.executable, "-m", "src.train", *settings, *words]


@pytest.mark.long
def test_the_command_searches_and_goes_on_after_a_kill(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    searching = train(tmp_path, neox_folder, corpus_folder, "+sweep=search", "hydra.sweeper.n_trials=2", "-m")
    sweep = tmp_path / "runs" / "search"
    process = subprocess.Popen(searching, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(sweep.glob("*/checkpoints/last.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(searching, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 trials: 2 complete" in done.stdout and "hydra.sweeper.confirm=5 -m" in done.stdout
    assert len(list(sweep.glob("*/state.json"))) == 2


PLUGIN = ["hydra-optuna-sweeper==1.3.0"]


@pytest.mark.long
def test_optunas_own_sweeper_gets_what_members_came_to(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    """It wants Optuna 2.10, so it is no dependency of ours; its newest release runs on ours, too."""
    plugins = tmp_path / "plugins"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(plugins), *PLUGIN]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("no package registry")
    path = os.pathsep.join([str(plugins), os.environ.get("PYTHONPATH", "")])
    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2", "name=theirs"]
    # With this seed some members fail, and others do not.
    words += ["hydra.sweeper.sampler.seed=0", "hydra.sweeper.max_failure_rate=1", "mask.token.rate=0.1,0.3"]
    words += ["optim.lr=1e-3,1e30", "optim.gradient_clip=0"]
    done = subprocess.run(
        train(tmp_path, neox_folder, corpus_folder, *words, "-m"),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "looks for the worst: of core/explained_variance, higher is better" in done.stderr
    states = [read_state(path) for path in (tmp_path / "runs" / "theirs").glob("*/state.json")]
    assert {state.status for state in states if state is not None} == {"done", "failed"}
    found = (tmp_path / "runs" / "theirs" / "optimization_results.yaml").read_text()
    assert "best_value:" in found
