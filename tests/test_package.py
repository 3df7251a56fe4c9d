"""The wheel trains in an environment of its own, outside of the repository, with the user's conf/ first."""

import json
import os
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.code import code_digest
from masked_sae.runs.folder import RunFolder
from support.composing import small_overrides
from support.extending import write_examples
from support.making import ROOT
from support.packages import Environment, build

RELEASED = os.environ.get("MASKED_SAE_DIST")  # what `make release` has built

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400 if RELEASED else 1200)]

# A job as submitit runs it on a node: from the copy of the code, by what the launcher would hand over.
SUBMIT = """
import json, sys
from hydra import compose, initialize_config_dir
from masked_sae.bundled import CONF
from masked_sae.config import typed_config
from masked_sae.runs.run import make_run
from masked_sae.sweeps.code_copy import code_of
from masked_sae.runs.carried import carried
with initialize_config_dir(str(CONF), version_base=None):
    config = typed_config(compose("train", sys.argv[1:]))
run = make_run(config, {})
(copy,) = code_of([run]).values()
from pathlib import Path
print(json.dumps([carried(run), str(copy.path), str(run.folder.path.parent), copy.setup(Path.cwd())]))
"""
JOB = """
import json, sys
from masked_sae.sweeps.pack_job import PackJob
run, copy, sweep = json.loads(sys.argv[1])
print(PackJob([run], copy, sweep)())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = Path(RELEASED or tmp_path_factory.mktemp("dist"))
    if not RELEASED:
        build(dist)
    (found,) = dist.absolute().glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"), wheel, whole=RELEASED is not None)


@pytest.fixture
def small(corpus_folder: Path, tmp_path: Path) -> list[str]:
    """Sizes of small runs; the LM is the embedded one, and all that is written is below the working folder."""
    settings = small_overrides(Path(), corpus_folder, Path())
    return [one for one in settings if not one.startswith(("lm.name", "lm.hook_name", "output_dir"))]


def test_the_wheel_and_the_sdist_hold_what_they_should(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"masked_sae/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    sweeps = {
        f"masked_sae/conf/sweep/{path.relative_to(ROOT / 'sweeps')}" for path in (ROOT / "sweeps").rglob("*.yaml")
    }
    lms = {f"masked_sae/assets/{lm}/model.safetensors" for lm in ("tiny_lm", "ground_truth_lm")}
    library = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "masked_sae").rglob("*.*")}
    assert conf | sweeps | lms | {name for name in library if "__pycache__" not in name} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"masked_sae", "hydra_plugins"}
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {Path(name).parts[1] for name in archive.getnames()}
    assert tops >= {"src", "conf", "assets", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    assert not tops & {"tests", "docs", "benchmarks", "runs", ".venv"}


def test_it_trains_evaluates_and_reports_without_a_checkout(
    installed: Environment, small: list[str], tmp_path: Path
) -> None:
    before = installed.files()
    where = "import masked_sae, hydra_plugins.masked_sae_search as door; print(masked_sae.__file__, door.__file__)"
    for file in installed.run("python", "-c", where, cwd=tmp_path).split():
        assert Path(file).is_relative_to(installed.site)
    assert "masked-sae-train +sweep=mask_rate -m" in installed.run("masked-sae-train", "--help", cwd=tmp_path)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert installed.run("masked-sae-train", "--version", cwd=tmp_path) == f"masked-sae {version}\n"
    installed.run("masked-sae-train", *small, "eval.families=[core]", "+sweep=mask_rate", "-m", cwd=tmp_path)
    sweep = tmp_path / "runs" / "mask_rate"
    members = [RunFolder(path.parent) for path in sweep.glob("*/results.json")]
    rates = yaml.safe_load((ROOT / "sweeps" / "mask_rate.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert len(members) == len(rates["mask.token.rate"].split(","))
    assert {attempt.code for one in members for attempt in read_attempts(one.attempts)} == {code_digest()}
    assert {json.loads(one.results.read_text())["config"]["lm"]["name"] for one in members} == {"assets/tiny_lm"}
    assert "done" in installed.run("masked-sae-status", "runs/mask_rate", cwd=tmp_path)
    installed.run(
        "masked-sae-evaluate", "sweep=runs/mask_rate", "eval.families=[core]", "eval.tokens=256", cwd=tmp_path
    )
    page = tmp_path / installed.run("masked-sae-report", "sweep=runs/mask_rate", cwd=tmp_path).strip()
    assert "masked-sae-train" in page.read_text() and "python -m src." not in page.read_text()
    installed.run("masked-sae-publish", "sweep=runs/mask_rate", "repo=me/it", "dry_run=true", cwd=tmp_path)
    assert "masked-sae-dashboard sweep=" in installed.run("masked-sae-dashboard", "--help", cwd=tmp_path)
    one = str(members[0].path.relative_to(tmp_path))
    installed.run("masked-sae-latents", f"run={one}", "tokens=512", cwd=tmp_path)
    installed.run("masked-sae-pretrain", "--cfg", "job", cwd=tmp_path)
    assert (members[0].path / "latents.html").exists() and (tmp_path / "tokens").is_dir()
    assert installed.files() == before, "nothing is written into the package"


def test_conf_of_the_working_folder_comes_first(installed: Environment, small: list[str], tmp_path: Path) -> None:
    write_examples(tmp_path)  # an architecture, a mask and a metric of somebody's own, and a sweep of them
    (tmp_path / "conf" / "optim").mkdir()
    own = (ROOT / "conf" / "optim" / "adam.yaml").read_text().replace("lr:", "lr: 0.00123 #", 1)
    (tmp_path / "conf" / "optim" / "adam.yaml").write_text(own)
    small = [one for one in small if not one.startswith(("sae.k=", "sae.aux_k=", "eval.tokens="))]
    installed.run("masked-sae-train", *small, "+sweep=mine", "-m", cwd=tmp_path)
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "mine").glob("*/results.json")]
    assert len(results) == 2
    for one in results:
        assert one["config"]["optim"]["lr"] == 0.00123 and one["config"]["sae"]["_module_"] == "my_package.my_sae"
    record = json.loads((tmp_path / "runs" / "mine" / "sweep.json").read_text())
    assert record["commands"][0][:2] == ["--config-dir", str(tmp_path / "conf")]


def test_a_job_trains_from_the_copy_of_an_installed_package(
    installed: Environment, small: list[str], tmp_path: Path
) -> None:
    said = installed.run("python", "-c", SUBMIT, *small, cwd=tmp_path)
    run, copy, sweep, setup = json.loads(said)
    assert not list(Path(copy).rglob("*.safetensors")) and not list(Path(copy).rglob("hydra_submitit_launcher"))
    assert (Path(copy) / "src" / "masked_sae" / "conf" / "train.yaml").exists()
    job = [str(installed.bin / "python"), "-c", JOB, json.dumps([run, copy, sweep])]
    script = "\n".join([*setup, 'exec "$@"'])
    (tmp_path / "job.sh").write_text(f"#!/bin/bash\n{script}\n")
    (tmp_path / "job.sh").chmod(0o755)
    printed = installed.run(str(tmp_path / "job.sh"), *job, cwd=tmp_path)
    assert printed.splitlines()[-1] == "done" and f"code {copy}" in printed
    (attempt,) = read_attempts(RunFolder(tmp_path / run["folder"]).attempts)
    assert attempt.code == code_digest()
