"""The workspace of small sweeps as W&B's server would get it: what its panels show is what the runs log."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masked_sae.errors import InputError
from masked_sae.report.catalogue import our_catalogue
from masked_sae.report.design import read_design
from masked_sae.report.runs_table import Runs
from masked_sae.report.series import look
from masked_sae.runs.curve import COLUMNS, VALIDATED
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import RunState, write_state
from masked_sae.runs.sweep_record import Member, record_members
from masked_sae.tracking.dashboard import build_workspace, read_dashboard
from masked_sae.tracking.dashboard_server import specification
from support.made_sweeps import with_settings
from support.making import ROOT, compose
from support.wandb_recorder import WandbServer

RATES, KS, SEEDS = (0.0, 0.1, 0.4), (8, 16), (0, 1)
METRICS = {
    "core/l0": 10.0,
    "core/explained_variance": 0.8,
    "core/ce_recovered": 0.9,
    "core/dead_latents": 0.1,
    "absorption/token_class/full_absorption": 0.2,
    "ground_truth/l0": 3.0,
    "ground_truth/mean_max_cosine": 0.7,
}
HEADLINES = [
    "core/explained_variance",
    "core/ce_recovered",
    "absorption/token_class/full_absorption",
    "ground_truth/mean_max_cosine",
]


def make_sweep(folder: Path, *overrides: str, metrics: Mapping[str, float] | None = METRICS) -> Path:
    """Runs as `src.train` leaves them, over mask rate, k and seed; without metrics, begun and not done."""
    members: list[Member] = []
    base = compose(list(overrides))
    for rate, k, seed in itertools.product(RATES, KS, SEEDS):
        config = with_settings(asdict(base), {"mask.token.rate": rate, "seed": seed, "sae.k": k})
        run = RunFolder(folder / f"rate{rate}-k{k}-seed{seed}")
        run.path.mkdir(parents=True)
        run.config.write_text(json.dumps(config))  # JSON is YAML
        if metrics is not None:
            results = {"run_id": run.run_id, "status": "done", "config": config, "metrics": metrics}
            run.results.write_text(json.dumps(results))
        members.append(Member(run, {"mask.token.rate": str(rate), "sae.k": str(k), "seed": str(seed)}))
    record_members(folder, members)
    return folder


def runs_of(
    table: pd.DataFrame, settings: Sequence[str], metrics: Sequence[str], masks: Sequence[Mapping[str, Any]]
) -> Runs:
    hidden = pd.Series(list(masks), index=table.index, dtype=object)
    return Runs(table, tuple(settings), tuple(metrics), hidden, {}, our_catalogue(), ())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("sweeps") / "mask_rate", "name=mask_rate")


def built(*sweeps: Path, **places: str) -> dict[str, Any]:
    return specification(read_dashboard(sweeps, **{"entity": "team", **places}))


def sections(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {s["name"]: s["panels"] for s in spec["spec"]["section"]["panelBankConfig"]["sections"]}


def runset(spec: dict[str, Any]) -> dict[str, Any]:
    (only,) = spec["spec"]["section"]["runSets"]
    return only


def axes(panel: dict[str, Any]) -> list[str]:
    config = panel["config"]
    return [config["xAxis"], config["yAxis"], config["zAxis"]]


def accessors(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        columns = panel["config"].get("columns")
        yield from axes(panel) if columns is None else [column["accessor"] for column in columns]


def test_panels_show_what_the_runs_log_and_nothing_else(sweep: Path) -> None:
    shown = sections(built(sweep))
    assert list(shown) == ["Pareto", "Mask response", "Parallel coordinates", "Training", "Held out, while training"]
    config = asdict(compose([]))
    stored = {key: {"value": value} for key, value in config.items()}  # as W&B keeps the configuration of a run
    for accessor in itertools.chain(*(accessors(list(shown.values())[i]) for i in range(3))):
        section, _, path = accessor.partition(":")
        if section == "summary":
            assert path in METRICS
        else:
            assert section == "config"
            found: Any = stored
            for part in path.split("."):
                found = found[part]
            assert isinstance(found, (int, float, str))
    for panel in shown["Training"]:
        (key,) = panel["config"]["metrics"]
        assert key.removeprefix("train/") in COLUMNS
    assert {"train/loss", "train/reconstruction_loss", "train/auxiliary_loss"} <= {
        key for panel in shown["Training"] for key in panel["config"]["metrics"]
    }
    for panel in shown["Held out, while training"]:
        (key,) = panel["config"]["metrics"]
        assert key in VALIDATED
    curves = [*shown["Training"], *shown["Held out, while training"]]
    assert {panel["config"]["xAxis"] for panel in curves} == {"tokens"}
    assert {panel["config"]["limit"] for panel in curves} == {
        12 + 1
    }  # every run has its line, and that of the whole sweep


def test_fronts_have_l0_across_and_the_mask_rate_as_colour(sweep: Path) -> None:
    front = {axes(panel)[1]: panel for panel in sections(built(sweep))["Pareto"]}
    assert list(front) == [f"summary:{key}" for key in HEADLINES]
    for key, panel in front.items():
        l0 = "ground_truth/l0" if "ground_truth" in key else "core/l0"
        assert axes(panel) == [f"summary:{l0}", key, "config:mask.value.token.rate"]
    gradient = front["summary:core/explained_variance"]["config"]["customGradient"]
    assert [(point["offset"], point["color"]) for point in gradient] == [
        (0, look(0, 3).colour),
        (25, look(1, 3).colour),
        (100, look(2, 3).colour),
    ]


def test_the_mask_response_has_the_rate_across(sweep: Path) -> None:
    panels = sections(built(sweep))["Mask response"]
    assert [axes(panel)[:2] for panel in panels] == [
        ["config:mask.value.token.rate", f"summary:{key}"] for key in HEADLINES
    ]


def test_parallel_coordinates_lead_from_the_settings_that_differ_to_the_metrics(sweep: Path) -> None:
    (panel,) = sections(built(sweep))["Parallel coordinates"]
    assert [column["accessor"] for column in panel["config"]["columns"]] == [
        "config:mask.value.token.rate",
        "config:sae.value.k",
        "config:seed.value",
        "summary:core/l0",
        "summary:ground_truth/l0",
        *(f"summary:{key}" for key in HEADLINES),
    ]


def test_the_runs_are_those_of_the_group_and_coloured_by_mask_rate(sweep: Path) -> None:
    spec = built(sweep)
    assert (spec["entity"], spec["project"], spec["displayName"]) == ("team", "masked-sae", "mask_rate")
    assert runset(spec)["filters"]["filters"] == [
        {"key": {"section": "run", "name": "group"}, "op": "=", "value": "mask_rate", "disabled": False}
    ]
    assert runset(spec)["grouping"] == []
    assert spec["spec"]["section"]["settings"]["shouldAutoGeneratePanels"]  # histograms and tables stand below ours
    assert spec["spec"]["section"]["customRunColors"] == {
        f"mask_rate-rate{rate}-k{k}-seed{seed}": look(place, 3).colour
        for (place, rate), k, seed in itertools.product(enumerate(RATES), KS, SEEDS)
    }


def test_several_sweeps_are_one_workspace(sweep: Path, tmp_path: Path) -> None:
    other = make_sweep(tmp_path / "other", "name=topk", "sae=topk")
    spec = built(sweep, other, sweep)
    (only,) = runset(spec)["filters"]["filters"]
    assert (only["key"]["name"], only["op"], only["value"]) == ("group", "IN", ["mask_rate", "topk"])
    assert spec["displayName"] == "mask_rate, topk"
    assert len(spec["spec"]["section"]["customRunColors"]) == 24
    (panel,) = sections(spec)["Parallel coordinates"]
    found = [column["accessor"] for column in panel["config"]["columns"]]
    assert "config:sae.value.architecture" in found
    assert "config:sae.value.group_fractions" not in found  # a list


def test_the_kind_of_mask_that_was_swept_is_the_one_shown(tmp_path: Path) -> None:
    table = pd.DataFrame(
        [
            {"sweep": "s", "run_id": f"r{rate}", "status": "done", "name": "s", "mask.token.rate": 0.1}
            | {"mask.latent.rate": rate, "core/l0": 4.0, "core/explained_variance": 0.5}
            for rate in (0.0, 0.5)
        ]
    )
    masks = [{"mask.token.rate": 0.1} | ({"mask.latent.rate": rate} if rate else {}) for rate in (0.0, 0.5)]
    settings = ("name", "mask.token.rate", "mask.latent.rate")
    runs = runs_of(table, settings, ("core/l0", "core/explained_variance"), masks)
    shown = sections(specification(build_workspace(runs, read_design(runs), "e", "p")))
    assert axes(shown["Pareto"][0])[2] == "config:mask.value.latent.rate"
    assert axes(shown["Mask response"][0])[0] == "config:mask.value.latent.rate"


def test_a_sweep_that_has_only_begun_has_its_dashboard(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "begun", "name=begun", metrics=None)
    late = Member(RunFolder(folder / "queued"), {"mask.token.rate": "0.4", "sae.k": "32"})
    record_members(folder, [late])
    spec = built(folder)
    assert [axes(panel)[1] for panel in sections(spec)["Pareto"]] == [
        "summary:core/explained_variance",
        "summary:core/ce_recovered",
    ]
    assert spec["spec"]["section"]["customRunColors"]["begun-queued"] == look(2, 3).colour


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True))
def test_no_name_of_a_sweep_can_bend_the_filter(names: list[str]) -> None:
    table = pd.DataFrame(
        [{"sweep": "s", "run_id": "r", "status": "done", "name": name, "core/l0": 4.0} for name in names]
    )
    runs = runs_of(table, ("name",), ("core/l0",), [{}] * len(names))
    spec = specification(build_workspace(runs, read_design(runs), "e", "p"))
    (only,) = runset(json.loads(json.dumps(spec)))["filters"]["filters"]
    assert only["key"] == {"section": "run", "name": "group"}
    assert only["value"] == (names[0] if len(names) == 1 else sorted(names))


@pytest.mark.parametrize("name", ["it's", 'a="b" or 1 <2', "Metric('Name') within_last 5 days", "k=8 + 🎭", "\\"])
def test_odd_names_stay_names(name: str) -> None:
    test_no_name_of_a_sweep_can_bend_the_filter.hypothesis.inner_test([name])


def test_the_project_is_that_of_the_runs_unless_another_is_named(sweep: Path, tmp_path: Path) -> None:
    other = make_sweep(tmp_path / "other", "name=other", "logger.wandb.project=mine", "logger.wandb.entity=me")
    own = specification(read_dashboard([other]))
    assert (own["entity"], own["project"]) == ("me", "mine")
    with pytest.raises(InputError, match=r"^project=masked-sae, mine: expected one of them; choose with project=…$"):
        read_dashboard([sweep, other])
    assert built(sweep, other, project="mine")["project"] == "mine"
    assert specification(read_dashboard([sweep], own_entity="tester"))["entity"] == "tester"


def test_runs_that_w_and_b_never_sees_have_no_dashboard(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "silent", "logger.wandb.mode=disabled")
    with pytest.raises(InputError, match=r"^sweep=.*silent: expected runs that log to W&B"):
        read_dashboard([folder])


def make_evaluated(folder: Path) -> Path:
    """SAEs from elsewhere, as `src.evaluate` leaves them: never trained here, so in no W&B run."""
    config = asdict(compose(["name=evaluated", "sae.d_sae=777"]))
    for name in ("theirs", "others"):
        run = RunFolder(folder / name)
        run.path.mkdir(parents=True)
        run.config.write_text(json.dumps(config))
        run.results.write_text(json.dumps({"run_id": name, "status": "done", "config": config, "metrics": METRICS}))
        write_state(run.state, RunState(name, "created"), status="done")
    return folder


def test_saes_from_elsewhere_are_left_out(tmp_path: Path) -> None:
    trained = make_sweep(tmp_path / "trained", "name=trained", "logger.wandb.project=mine")
    spec, alone = built(trained, make_evaluated(tmp_path / "evaluated")), built(trained)
    assert spec["project"] == "mine"
    assert runset(spec)["filters"] == runset(alone)["filters"]
    for key in ("panelBankConfig", "customRunColors"):
        found = [json.dumps(one["spec"]["section"][key], sort_keys=True) for one in (spec, alone)]
        assert re.sub(r'"__id__": "\w+"', "", found[0]) == re.sub(r'"__id__": "\w+"', "", found[1])
    with pytest.raises(InputError, match=r"^sweep=.*evaluated: expected runs that log to W&B"):
        read_dashboard([tmp_path / "evaluated"])


def test_runs_beside_those_of_w_and_b_do_not_enter(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "mixed", "name=mixed")
    silent = folder / "rate0.4-k8-seed0"
    for name in ("config.yaml", "results.json"):
        text = (silent / name).read_text().replace('"mode": "auto"', '"mode": "disabled"')
        assert '"mode": "disabled"' in text
        (silent / name).write_text(text)
    assert len(built(folder)["spec"]["section"]["customRunColors"]) == 11


def command(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command of somebody who is nowhere logged in, unless `environment` says so."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "MASKED_SAE_", "WANDB_"))}
    own = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_CONFIG_DIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-m", "src.dashboard", *arguments],
        cwd=ROOT,
        env=kept | own | {"WANDB_ERROR_REPORTING": "false"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


def test_mistakes_are_told_in_one_line(sweep: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert refused(command(tmp_path, f"sweep={nowhere}")) == (
        f"sweep={nowhere}: expected a sweep's folder, such as runs/mask_rate"
    )
    assert refused(command(tmp_path, f"sweep={sweep}", "entitty=me")) == (
        "entitty: no such key; expected one of sweep, entity, project, dry_run"
    )
    assert refused(command(tmp_path, f"sweep={sweep}", "dry_run=perhaps")) == (
        "dry_run=perhaps: expected true or false"
    )


@pytest.mark.slow
def test_without_login_or_server_it_says_so_and_what_to_do(sweep: Path, tmp_path: Path) -> None:
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9"}  # the port of `discard`, where nobody listens
    assert "do so with `wandb login`" in refused(command(tmp_path, f"sweep={sweep}", **nobody))
    login = nobody | {"WANDB_API_KEY": "a" * 40}
    assert "127.0.0.1 cannot be reached (Connection refused)" in refused(command(tmp_path, f"sweep={sweep}", **login))
    assert refused(command(tmp_path, f"sweep={sweep}", WANDB_MODE="offline")).startswith("WANDB_MODE=offline: expected")


@pytest.mark.slow
def test_a_dry_run_prints_the_workspace_and_needs_no_server(sweep: Path, tmp_path: Path) -> None:
    done = command(tmp_path, f"sweep={sweep}", "dry_run=true", WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.stderr == ""
    spec = json.loads(done.stdout)
    assert (spec["displayName"], spec["project"]) == ("mask_rate", "masked-sae")
    assert len(sections(spec)["Pareto"]) == len(HEADLINES)


def at_server(server: WandbServer, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(tmp_path, *arguments, **{k: v for k, v in server.environment(tmp_path).items() if "WANDB" in k})


def test_it_is_saved_at_the_server_and_its_url_printed(sweep: Path, tmp_path: Path, wandb_server: WandbServer) -> None:
    done = at_server(wandb_server, tmp_path, f"sweep={sweep}")
    assert (done.returncode, done.stderr) == (0, "")
    (url,) = done.stdout.splitlines()
    (view,) = wandb_server.views.values()
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("tester", "masked-sae", "mask_rate")
    assert url == f"{wandb_server.url}/tester/masked-sae?nw={view['name'].removeprefix('nw-').removesuffix('-v')}"
    assert view["type"] == "project-view"
    found = sections({"spec": view["spec"]})
    assert [axes(panel)[1] for panel in found["Pareto"]] == [f"summary:{key}" for key in HEADLINES]
    # W&B's own reader takes it for a workspace
    script = "import sys, wandb_workspaces.workspaces as ws; view = ws.Workspace.from_url(sys.argv[1]);"
    script += "print(view.name, len(view.sections), view.runset_settings.filters)"
    environment = wandb_server.environment(tmp_path)
    read = subprocess.run(
        [sys.executable, "-c", script, url], env=environment, capture_output=True, text=True, check=False
    )
    assert read.stdout.strip() == "mask_rate 5 Metric(\"Group\") == 'mask_rate'", read.stderr


def test_what_the_server_refuses_is_told_in_one_line(sweep: Path, tmp_path: Path, wandb_server: WandbServer) -> None:
    wandb_server.refused.add("UpsertView2")
    line = refused(at_server(wandb_server, tmp_path, f"sweep={sweep}", "entity=others"))
    assert line.startswith("project=others/masked-sae: expected a W&B project of this entity that you may change: ")
